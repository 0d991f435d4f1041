"""What is owed to newcomers, and for how long."""

from server.engine.debt import MAX_DEBT_S, Debt


def test_it_adds_up_and_is_repaid() -> None:
    debt = Debt()
    assert not debt.is_owed(0.0)
    debt.lack(0.002, 0.0)
    debt.lack(0.003, 0.01)
    debt.repay(0.004)
    assert debt.is_owed(0.02)
    debt.repay(0.002)
    assert not debt.is_owed(0.02)


def test_only_so_much_is_owed_and_only_for_so_long() -> None:
    debt = Debt()
    debt.lack(10 * MAX_DEBT_S, 0.0)
    debt.repay(MAX_DEBT_S)
    assert not debt.is_owed(0.0)
    debt.lack(0.05, 1.0)
    assert not debt.is_owed(1.0 + MAX_DEBT_S)
    debt.lack(0.01, 2.0)
    debt.repay(0.01)
    assert not debt.is_owed(2.0), "what was lacked a second ago is forgotten"
