"""What exits and operating points give, through the served stop rule, and its report."""
