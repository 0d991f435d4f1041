// The page at `/`: one full run of an input, and what the stop rule makes of it at any setting.
//
// Milliseconds, millijoules and multiply-accumulates (MACs) are numbers without a unit in their
// name where a record holds all three: {latency, energy, macs}. Exits are numbered from 1.

// ---------------------------------------------------------------- the stop rule
// The same as models/bundle/policy.py, which says why. tests/server/page holds the two together.

export function policyAt(point) {
  const consulted = new Set(point.consulted);
  return point.thresholds.map((threshold, k) => (consulted.has(k + 1) ? threshold : null));
}

export function policyOfThreshold(threshold, numExits) {
  return Array.from({ length: numExits }, (_, k) => (k + 1 < numExits ? threshold : null));
}

export function limitReason(thresholds, exit, left, nextCost) {
  if (exit === thresholds.length) return "final";
  if (nextCost.latency > left.latency) return "deadline";
  if (nextCost.energy > left.energy) return "energy";
  return null;
}

export function stopReason(thresholds, exit, confidence, limit) {
  const threshold = thresholds[exit - 1];
  return threshold !== null && confidence > threshold ? "confident" : limit;
}

/** Follows one input from exit to exit. `confidences[k - 1]` is what exit k says.
 *
 * Gives the exit that answers, its reason, what was spent, the exits whose heads ran, and what was
 * left of the budget beside what the next answer would cost; null where an exit has not said
 * anything that decides. */
export function walk(thresholds, confidences, costs, budget) {
  let spent = { latency: 0, energy: 0, macs: 0 };
  const heads = [];
  for (let exit = 1; exit <= thresholds.length; exit++) {
    spent = sum(spent, costs.segments[exit - 1]);
    const withHead = sum(spent, costs.heads[exit - 1]);
    const left = { latency: budget.latency - withHead.latency, energy: budget.energy - withHead.energy };
    const next = costs.next[exit];
    const limit = limitReason(thresholds, exit, left, next);
    if (limit === null && thresholds[exit - 1] === null) continue; // the head does not run
    spent = withHead;
    heads.push(exit);
    if (confidences[exit - 1] === undefined) return null;
    const reason = stopReason(thresholds, exit, confidences[exit - 1], limit);
    if (reason !== null) return { exit, reason, spent, heads, left, next };
  }
  return null;
}

function sum(one, other) {
  return {
    latency: one.latency + other.latency,
    energy: one.energy + other.energy,
    macs: one.macs + other.macs,
  };
}

// ---------------------------------------------------------------- costs

const costOf = (graph) => ({ latency: graph.latency_ms, energy: graph.energy_mj, macs: graph.macs });

/** What the server expects one row to cost. `next[k]` is from exit k to the answer after it. */
export function expectedCosts(version) {
  const segments = version.exits.map((exit) => costOf(exit.segment));
  const heads = version.exits.map((exit) => costOf(exit.head));
  const overhead = { latency: version.overhead_ms, energy: 0, macs: 0 };
  const next = segments.map((segment, k) => sum(sum(segment, heads[k]), overhead));
  return { segments, heads, next: [...next, { latency: 0, energy: 0, macs: 0 }] };
}

/** The MACs of a run to an exit that asked these heads on the way, and its own. */
export function macsTo(exit, heads, costs) {
  const asked = costs.heads.filter((_, k) => k + 1 === exit || (k + 1 < exit && heads.includes(k + 1)));
  return [...costs.segments.slice(0, exit), ...asked].reduce(sum).macs;
}

/** A row's mean MACs at an operating point. Of texts, `mean_macs` is that of their own lengths and
 * every other number that of the longest text; this one is, too. */
export function meanMacs(point, costs) {
  return point.exit_shares.reduce((mean, share, k) => mean + share * macsTo(k + 1, point.consulted, costs), 0);
}

/** The same as this run took it: the times at which its exits answered, and its energy. */
export function measuredCosts(version, said, final) {
  const expected = expectedCosts(version);
  const all = [...expected.segments, ...expected.heads].reduce(sum);
  const energyScale = final === null || all.energy === 0 ? 1 : final.cost.energy_mj / all.energy;
  const segments = [], heads = [];
  let before = 0;
  expected.segments.forEach((segment, k) => {
    const head = expected.heads[k];
    const step = said[k] ? said[k].at_ms - before : segment.latency + head.latency;
    before = said[k] ? said[k].at_ms : before + step;
    const share = head.latency / (head.latency + segment.latency || 1);
    const headLatency = Math.min(head.latency, share * step);
    heads.push({ ...head, latency: headLatency, energy: head.energy * energyScale });
    segments.push({ ...segment, latency: step - headLatency, energy: segment.energy * energyScale });
  });
  return { segments, heads, next: expected.next };
}

// ---------------------------------------------------------------- many rows at once

const MAX_ROWS = 5000; // evenly taken from larger calibration splits, so that sliders stay quick

export function decodedCalibration(info) {
  if (info.confidences === null) return null;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes(info.confidences).buffer), isRight = bytes(info.is_right);
  const step = Math.ceil(info.num_rows / MAX_ROWS), rows = [];
  for (let row = 0; row < info.num_rows; row += step) {
    const start = row * info.num_exits, end = start + info.num_exits, confidences = [];
    for (let at = start; at < end; at++) confidences.push(view.getUint16(2 * at, true) / 65535);
    rows.push({ confidences, isRight: isRight.subarray(start, end) });
  }
  return rows;
}

/** How often a setting is right on calibration rows, and what it costs on average. */
export function replayed(rows, thresholds, costs, budget) {
  const shares = thresholds.map(() => 0);
  let right = 0, macs = 0;
  for (const row of rows) {
    const stop = walk(thresholds, row.confidences, costs, budget);
    right += row.isRight[stop.exit - 1];
    macs += stop.spent.macs;
    shares[stop.exit - 1] += 1 / rows.length;
  }
  return { accuracy: right / rows.length, macs: macs / rows.length, shares };
}

// ---------------------------------------------------------------- the server's counts

const DURATION = "offramp_answer_duration_seconds_bucket", WINDOW_S = 60;

export function readMetrics(text, model) {
  const said = { exits: new Map(), buckets: new Map(), depth: 0 };
  const add = (map, key, value) => map.set(key, (map.get(key) ?? 0) + value);
  for (const line of text.split("\n")) {
    const found = /^(offramp_\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (found === null) continue;
    const [, name, inner = "", value] = found;
    if (name === "offramp_queue_depth") said.depth = Number(value);
    if (name !== "offramp_exits_total" && name !== DURATION) continue;
    const labels = Object.fromEntries(
      Array.from(inner.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g), ([, key, text]) => [key, text]),
    );
    if (labels.model !== model) continue;
    if (name === DURATION) add(said.buckets, labels.le === "+Inf" ? Infinity : Number(labels.le), Number(value));
    else add(said.exits, Number(labels.exit), Number(value));
  }
  return said;
}

/** The quantile of a histogram in its own unit, linear within a bucket, as Prometheus has it. */
export function quantileOf(share, buckets) {
  const edges = [...buckets.keys()].sort((one, other) => one - other);
  const total = buckets.get(Infinity) ?? 0, rank = share * total;
  if (total === 0) return null;
  let below = 0, count = 0;
  for (const edge of edges) {
    const upTo = buckets.get(edge);
    if (upTo >= rank) return edge === Infinity ? below : below + ((edge - below) * (rank - count)) / (upTo - count);
    below = edge;
    count = upTo;
  }
  return below;
}

const total = (map) => [...map.values()].reduce((one, other) => one + other, 0);
const minus = (now, before) => new Map([...now].map(([key, value]) => [key, value - (before.get(key) ?? 0)]));

// ---------------------------------------------------------------- talking to the server

const KEY = "offramp-key";

class Problem extends Error {
  constructor(status, title, detail) {
    super(detail);
    Object.assign(this, { status, title });
  }
}

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "No answer", "The server cannot be reached.");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw problemOf(said, response.status);
}

function problemOf(said, status = said.status) {
  const fields = (said.errors ?? []).map(({ field, detail }) => `${field}: ${detail}`).join("; ");
  return new Problem(status, said.title ?? `Status ${status}`, fields || said.detail || "The server did not say why.");
}

/** The events of a text/event-stream, one after the other. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const [, name, data] = /^event: (.*)\ndata: (.*)$/.exec(text.slice(0, end));
      yield { name, data: JSON.parse(data) };
    }
  }
}

// ---------------------------------------------------------------- words and small parts

const $ = (selector) => document.querySelector(selector);
const NO_BUDGET = { latency: Infinity, energy: Infinity };

function el(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function svg(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
const short = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toPrecision(2));
const ms = (value) => `${short(value)} ms`;
const mj = (value) => `${short(value)} mJ`;
const speak = (label) => label.replaceAll("_", " ");
const sleep = (time) => new Promise((done) => setTimeout(done, time));

const worded = (reason) => reason.replace("_", " ");
const CUT = new Set(["deadline", "energy", "degraded", "exit_limit", "cancelled"]);

// ---------------------------------------------------------------- state

const EXAMPLES = ["apple", "sunflower", "skyscraper", "clock", "poppy", "road", "sea", "cloud"];
const CONVERTED = "image/png", TAKEN = new Set(["image/png", "image/jpeg", "image/webp"]);
const SHRUNK_SIDE = 1600, MANY_PIXELS = 16e6, MANY_BYTES = 8e6;
const SLOWED_TO_MS = 1100, POLL_MS = 2000, OWN = "own";

const state = {
  models: [], name: "", version: null, calibration: null, thresholdLine: [],
  input: null, // {body, type, fileName}
  said: [], final: null, isRunning: false, slowness: 1, turn: 0, controller: null,
  point: "", samples: [],
};

const numExits = () => state.version.exits.length;
const wholeMacs = () => state.version.exits.at(-1).macs;
const pointMacs = (point) => meanMacs(point, expectedCosts(state.version));
const lengthNote = () => (kind() === "text" ? " Every text counts as the longest." : "");
const areRight = () => (state.version.judged_by === "labels" ? "are right" : "agree with the last exit");

function thresholds() {
  if (state.point !== OWN) return policyAt(state.version.operating_points[state.point]);
  return policyOfThreshold(Number($("#threshold").value), numExits());
}

/** The range of a budget's slider: from too little for exit 1 to more than every exit takes. */
function range(kind) {
  const { segments, heads, next } = expectedCosts(state.version);
  const everything = [...segments, ...heads].reduce(sum)[kind];
  return [next[0][kind] / 2, 3 * everything + (kind === "latency" ? 5 : 0)];
}

function budgetOf(kind) {
  const slider = $(`#${kind}`), position = slider.value / slider.max;
  if (position === 1) return Infinity;
  const [least, most] = range(kind);
  return Number((least * (most / least) ** position).toPrecision(2));
}

const budget = () => ({ latency: budgetOf("latency"), energy: budgetOf("energy") });

/** What the model says at this setting: by the rule, or where a run was cut short, as it was. */
function verdict() {
  if (state.version === null || state.said.length === 0) return null;
  const costs = measuredCosts(state.version, state.said, state.final);
  const confidences = state.said.map((said) => said?.confidence);
  const stop = walk(thresholds(), confidences, costs, budget());
  if (stop !== null || state.final === null) return stop;
  const { exit, stop_reason: reason, cost } = state.final, heads = state.said.flatMap((said) => said?.exit ?? []);
  return {
    exit, reason, heads, isCutShort: true,
    spent: { latency: cost.total_ms, energy: cost.energy_mj, macs: macsTo(exit, heads, costs) },
  };
}

// ---------------------------------------------------------------- drawing: answer and exits

function why(stop) {
  const confidence = percent(state.said[stop.exit - 1].confidence);
  const threshold = thresholds()[stop.exit - 1];
  if (stop.isCutShort) return `The server stopped the run at exit ${stop.exit}: ${worded(stop.reason)}.`;
  switch (stop.reason) {
    case "confident":
      return `The confidence of exit ${stop.exit} is ${confidence}, more than its threshold of ${percent(threshold)}.`;
    case "deadline":
      return `The next answer takes ${ms(stop.next.latency)}, and ${leftOver(stop.left.latency, ms)} of the latency budget.`;
    case "energy":
      return `The next answer takes ${mj(stop.next.energy)}, and ${leftOver(stop.left.energy, mj)} of the energy budget.`;
    default:
      return "No earlier exit was sure enough, and this is the last one.";
  }
}

const leftOver = (value, unit) => (value > 0 ? `${unit(value)} are left` : "nothing is left");

function drawVerdict(stop) {
  const said = stop === null ? null : state.said[stop.exit - 1];
  const words = (selector, text) => {
    const part = $(`#verdict ${selector}`);
    if (part.textContent !== text) part.textContent = text; // else a screen reader says it again
  };
  $("#facts").hidden = $("#check").hidden = said === null;
  $("#intro").hidden = state.input !== null;
  $("#verdict .eyebrow").hidden = said === null;
  $("#verdict .label").classList.toggle("none", said === null);
  $("#now").textContent = said === null ? "No answer yet" : `${speak(said.label)} · exit ${stop.exit}, ${worded(stop.reason)}`;
  if (said === null) {
    const isEmpty = state.input === null;
    words(".label", state.isRunning ? "Looking …" : isEmpty ? "Nothing to look at yet" : "No answer");
    words(".why", isEmpty ? "Choose an input to see which exit answers, and why it stops there." : "");
    words(".others", "");
    return;
  }
  const isMargin = state.version.confidence === "margin"; // says less of the answer's own probability
  const others = said.top_k.slice(isMargin ? 0 : 1, 4).filter((guess) => guess.probability >= 0.005).map((guess) => `${speak(guess.label)} ${percent(guess.probability)}`);
  $("#verdict .sign").classList.toggle("cut", CUT.has(stop.reason));
  words(".sign", `EXIT ${stop.exit}`);
  words(".reason", `of ${numExits()} · ${worded(stop.reason)}`);
  words(".label", speak(said.label));
  words(".why", why(stop));
  words(".others", others.length ? `${isMargin ? "Probabilities" : "Its other guesses"}: ${others.join(", ")}` : "");
  drawFacts(stop);
}

function drawFacts(stop) {
  const fact = (name, value, unit = "") => el("div", {}, el("dt", {}, name), el("dd", {}, value, unit && el("small", {}, ` ${unit}`)));
  const source = state.version.energy_source === "estimate" ? "mJ, estimated" : "mJ";
  $("#facts").replaceChildren(
    fact("confidence", percent(state.said[stop.exit - 1].confidence)),
    fact("time", short(stop.spent.latency), "ms"),
    fact("of the MACs", percent(stop.spent.macs / wholeMacs())),
    fact("energy", short(stop.spent.energy), source),
  );
}

function makeExits() {
  $("#exits").replaceChildren(
    ...state.version.exits.map((exit) =>
      el("li", {},
        el("span", { className: "badge" }, el("span", { className: "unseen" }, "Exit "), String(exit.exit)),
        el("span", { className: "name" }),
        el("span", { className: "bar", ariaHidden: "true" }, el("i"), el("b")),
        el("span", { className: "confidence" }),
        el("span", { className: "time" }),
        el("span", { className: "macs", title: "of the whole network's multiply-accumulates" }),
        el("span", { className: "state" }),
      ),
    ),
  );
}

function drawExits(stop) {
  const rule = thresholds();
  [...$("#exits").children].forEach((item, k) => {
    const exit = k + 1, said = state.said[k], info = state.version.exits[k];
    const part = (name) => item.querySelector(`.${name}`);
    part("name").textContent = said ? speak(said.label) : "–";
    part("confidence").textContent = said ? percent(said.confidence) : "";
    part("time").textContent = said ? ms(said.at_ms) : `≈ ${ms(info.latency_ms)}`;
    part("macs").textContent = percent(info.macs / wholeMacs());
    item.querySelector("i").style.width = percent(said?.confidence ?? 0).replace(" ", "");
    const tick = item.querySelector("b");
    tick.hidden = rule[k] === null;
    tick.style.left = `${100 * (rule[k] ?? 0)}%`;
    const [kind, words] = roleOf(exit, said, stop, rule[k]);
    item.className = kind;
    part("state").textContent = words;
  });
  drawExitsNote();
}

/** What an exit does at this setting: its row's classes, and words. */
function roleOf(exit, said, stop, threshold) {
  if (!said) return ["waiting", state.isRunning ? "" : threshold === null && exit < numExits() ? "not consulted" : ""];
  if (stop === null) return ["", ""];
  if (exit > stop.exit) return ["after", "not needed"];
  if (exit === stop.exit) return [CUT.has(stop.reason) ? "stop cut" : "stop", `stops: ${worded(stop.reason)}`];
  return stop.heads.includes(exit) ? ["passed", "below its threshold"] : ["skipped", "not consulted"];
}

function drawExitsNote() {
  const slowed = state.slowness >= 2 ? ` Shown ${Math.round(state.slowness)} times slower than it happened.` : "";
  const cut = state.final?.truncated ? " The text is longer than what the model reads, and was cut." : "";
  const isCut = state.final !== null && state.said[numExits() - 1] === undefined;
  if (isCut) $("#exits-note").textContent = `The server cut this run short: ${worded(state.final.stop_reason)}. Choose the input again to repeat it.`;
  else if (state.final !== null) $("#exits-note").textContent = `One run through every exit; the mark on each bar is its threshold.${slowed}${cut}`;
  else $("#exits-note").textContent = state.isRunning ? "" : `Times and MACs are what this server expects.${lengthNote()}`;
}

// ---------------------------------------------------------------- drawing: settings

function makePoints() {
  const names = Object.keys(state.version.operating_points);
  state.point = names.includes(state.point) || state.point === OWN ? state.point : "balanced";
  $("#points").replaceChildren(
    ...[...names, OWN].map((name) =>
      el("label", {},
        el("input", { type: "radio", name: "point", value: name, checked: name === state.point }),
        el("span", {}, name === OWN ? "own threshold" : speak(name)),
      ),
    ),
  );
}

function drawSettings() {
  const point = state.version.operating_points[state.point], own = $("#threshold");
  $("#threshold-row").hidden = state.point !== OWN;
  say(own, percent(own.value));
  say($("#latency"), budgetOf("latency") === Infinity ? "no limit" : ms(budgetOf("latency")));
  say($("#energy"), budgetOf("energy") === Infinity ? "no limit" : mj(budgetOf("energy")));
  $("#point-note").textContent = point
    ? `${percent(point.accuracy, 1)} ${areRight()}, at ${percent(pointMacs(point) / wholeMacs())} of the MACs; asks exits ${point.consulted.join(", ")}.`
    : "Asks every exit, and stops at the first that is surer than this.";
  $("#reset").hidden = state.point === "balanced" && budgetOf("latency") === Infinity && budgetOf("energy") === Infinity;
}

function say(slider, text) {
  slider.parentElement.querySelector("output").textContent = text;
  slider.setAttribute("aria-valuetext", text);
}

// ---------------------------------------------------------------- drawing: accuracy against cost

function drawTrade() {
  const { version, calibration } = state, points = Object.entries(version.operating_points);
  const costs = expectedCosts(version);
  const isPlain = state.point !== OWN && budgetOf("latency") === Infinity && budgetOf("energy") === Infinity;
  let now = null;
  if (isPlain) {
    const point = version.operating_points[state.point];
    now = { accuracy: point.accuracy, macs: meanMacs(point, costs) };
  } else if (calibration !== null) now = replayed(calibration, thresholds(), costs, budget());
  const rows = calibration === null ? "" : ` on ${calibration.length.toLocaleString("en")} calibration rows`;
  $("#trade-note").textContent = now === null
    ? "This bundle has no calibration rows to try the setting on."
    : `At this setting ${percent(now.accuracy, 1)} ${areRight()}, at ${percent(now.macs / wholeMacs())} of the whole network's MACs${rows}.${lengthNote()}`;
  drawChart(points, now);
  drawPointsTable(points);
}

function drawChart(points, now) {
  const box = $("#chart"), width = box.clientWidth, height = 270;
  if (width === 0) return;
  const exits = state.version.exits.map((exit) => [exit.macs / wholeMacs(), exit.accuracy]);
  const named = points.map(([name, point]) => [pointMacs(point) / wholeMacs(), point.accuracy, name]);
  const here = now && [now.macs / wholeMacs(), now.accuracy], furthest = Math.max(1.05, here?.[0] ?? 0);
  const line = state.thresholdLine
    .map((point) => [point.macs / wholeMacs(), point.accuracy])
    .filter(([cost]) => cost <= furthest);
  const all = [...exits, ...named, ...line, ...(here ? [here] : [])];
  const ys = all.map(([, y]) => y), xs = all.map(([x]) => x);
  const step = Math.max(...ys) - Math.min(...ys) > 0.12 ? 0.05 : 0.02;
  const bottom = Math.floor(Math.min(...ys) / step) * step, top = Math.ceil(Math.max(...ys) / step) * step;
  const far = Math.ceil(Math.max(1, ...xs) * 5) / 5;
  const x = (value) => 44 + (value / far) * (width - 60);
  const y = (value) => height - 40 - ((value - bottom) / (top - bottom || 1)) * (height - 58);
  const path = (pairs) => pairs.map(([a, b], k) => `${k ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
  const drawing = svg("svg", { width, height, role: "img", "aria-label": $("#trade-note").textContent });
  for (let tick = bottom; tick < top + step / 2; tick += step) {
    drawing.append(svg("line", { class: "axis", x1: 44, x2: width - 16, y1: y(tick), y2: y(tick) }));
    drawing.append(svg("text", { x: 38, y: y(tick) + 4, "text-anchor": "end" }, (100 * tick).toFixed(0)));
  }
  for (let tick = 0; tick < far + 0.01; tick += 0.2) {
    drawing.append(svg("text", { x: x(tick), y: height - 20, "text-anchor": "middle" }, `${Math.round(100 * tick)}`));
  }
  drawing.append(svg("text", { x: 44, y: 10 }, `% that ${areRight()}`));
  drawing.append(svg("text", { x: width - 16, y: height - 3, "text-anchor": "end" }, "mean cost, % of the whole network's MACs"));
  drawing.append(svg("path", { class: "exit-line", d: path(exits) }));
  if (line.length) drawing.append(svg("path", { class: "threshold-line", d: path(line) }));
  for (const [a, b] of exits) drawing.append(svg("circle", { class: "exit-dot", cx: x(a), cy: y(b), r: 3 }));
  if (here) {
    const [a, b] = [x(here[0]), y(here[1])];
    drawing.append(svg("path", { class: "guide", d: `M44 ${b}H${a}V${y(bottom)}` }));
    drawing.append(svg("circle", { class: "now-halo", cx: a, cy: b, r: 13 }));
  }
  for (const [a, b] of named) drawing.append(svg("circle", { class: "point", cx: x(a), cy: y(b), r: 5 }));
  if (here) drawing.append(svg("circle", { class: "now", cx: x(here[0]), cy: y(here[1]), r: 7 }));
  for (const label of placed(named.map(([a, b, name]) => ({ x: x(a), y: y(b), name })), width)) {
    drawing.append(svg("text", { class: "point-name", x: label.x, y: label.y, "text-anchor": label.anchor }, speak(label.name)));
  }
  box.replaceChildren(drawing);
}

/** Where names go: to the left above their points, to the right below one that would cover another. */
function placed(points, width) {
  const sorted = [...points].sort((one, other) => one.x - other.x);
  return sorted.map((point, k) => {
    const isCrowded = k > 0 && point.x - sorted[k - 1].x < 70 && Math.abs(point.y - sorted[k - 1].y) < 24;
    const isRight = isCrowded && point.x < width - 90;
    return isRight
      ? { ...point, x: point.x + 4, y: point.y + 22, anchor: "start" }
      : { ...point, x: point.x - 4, y: point.y - 12, anchor: "end" };
  });
}

function drawPointsTable(points) {
  const row = (cells, kind) => el("tr", {}, ...cells.map((cell, k) => el(k ? kind : "th", k ? {} : { scope: "row" }, cell)));
  const body = points.map(([name, point]) => {
    const drop = point.certificate ? `${(100 * point.certificate.max_accuracy_drop).toFixed(1)} points` : "–";
    const made = row([speak(name), percent(point.accuracy, 1), percent(pointMacs(point) / wholeMacs()), drop], "td");
    made.classList.toggle("chosen", name === state.point);
    return made;
  });
  const head = row(["operating point", areRight(), "MACs", "loses at most"], "th");
  $("#points-table").replaceChildren(el("thead", {}, head), el("tbody", {}, ...body));
}

// ---------------------------------------------------------------- drawing: this server now

function drawLive() {
  const newest = state.samples.at(-1), oldest = state.samples[0];
  if (newest === undefined || state.version === null) return;
  const seconds = (newest.at - oldest.at) / 1000, recent = minus(newest.exits, oldest.exits);
  const isQuiet = total(recent) === 0, counts = isQuiet ? newest.exits : recent, all = total(counts);
  const p99 = quantileOf(0.99, isQuiet ? newest.buckets : minus(newest.buckets, oldest.buckets));
  const answers = `${all.toLocaleString("en")} ${all === 1 ? "answer" : "answers"}`;
  const quiet = all === 0 ? "No answers yet." : `Quiet now. Since the start: ${answers}.`;
  $("#live-note").textContent = isQuiet ? quiet : `The last ${Math.round(seconds)} seconds: ${answers}.`;
  $("#rate").textContent = seconds > 0 ? (isQuiet ? "0" : short(total(recent) / seconds)) : "–";
  $("#p99").textContent = p99 === null ? "–" : ms(1000 * p99);
  $("#depth").textContent = newest.depth.toFixed(0);
  const expected = (state.version.operating_points.balanced ?? {}).exit_shares ?? [];
  $("#shares").replaceChildren(
    ...state.version.exits.map(({ exit }, k) => {
      const share = all === 0 ? 0 : (counts.get(exit) ?? 0) / all;
      const fill = el("i"), tick = el("b", { hidden: expected.length === 0 });
      fill.style.width = `${100 * share}%`;
      tick.style.left = `${100 * (expected[k] ?? 0)}%`;
      return el("li", {}, `exit ${exit}`, el("span", { className: "bar", ariaHidden: "true" }, fill, tick),
        el("span", { className: "share" }, all === 0 ? "–" : percent(share)));
    }),
  );
}

async function watchLive() {
  for (;;) {
    if (!document.hidden && state.version !== null) {
      try {
        const said = readMetrics(await (await ask("metrics")).text(), state.name), at = performance.now();
        const kept = state.samples.filter((sample) => at - sample.at <= 1000 * WINDOW_S);
        const isSame = kept.length === 0 || total(said.exits) >= total(kept.at(-1).exits); // it starts anew from zero
        state.samples = [...(isSame ? kept : []), { at, ...said }];
        drawLive();
      } catch {
        $("#live-note").textContent = "The server's numbers cannot be read now.";
      }
    }
    await sleep(POLL_MS);
  }
}

// ---------------------------------------------------------------- running

function drawRun() {
  if (state.version === null) return;
  const stop = verdict();
  drawVerdict(stop);
  drawExits(stop);
  drawCurl();
}

function draw() {
  if (state.version === null) return;
  drawRun();
  drawSettings();
  drawTrade();
}

function query(more) {
  const parameters = new URLSearchParams({ model: state.name, version: state.version.version, ...more });
  return `v1/classify?${parameters}`;
}

/** The parameters of a request at this setting. */
function settingParameters() {
  const chosen = state.point === OWN ? { threshold: $("#threshold").value } : { operating_point: state.point };
  if (budgetOf("latency") < Infinity) chosen.latency_budget_ms = budgetOf("latency");
  if (budgetOf("energy") < Infinity) chosen.energy_budget_mj = budgetOf("energy");
  return chosen;
}

/** One run through every exit, shown as they answer. A newer one ends it. */
async function run() {
  state.controller?.abort();
  const controller = (state.controller = new AbortController());
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const { segments, heads } = expectedCosts(state.version);
  const whole = [...segments, ...heads].reduce(sum).latency;
  Object.assign(state, { said: [], final: null, isRunning: true, slowness: isCalm ? 1 : Math.max(1, SLOWED_TO_MS / whole) });
  $("#run-error").hidden = true;
  $("#asked").textContent = "";
  drawRun();
  try {
    await listen(controller.signal);
  } catch (error) {
    if (controller.signal.aborted) return;
    state.said = [];
    showRunError(error);
  }
  state.isRunning = false;
  drawRun();
}

async function listen(signal) {
  const topK = Math.min(5, state.version.labels.length), { body, type } = state.input;
  const headers = { "Content-Type": type, Accept: "text/event-stream" };
  const path = query({ threshold: 1, trace: true, top_k: topK });
  const response = await ask(path, { method: "POST", body, headers, signal });
  const started = performance.now();
  for await (const { name, data } of eventsOf(response)) {
    if (name === "error") throw problemOf(data);
    if (name === "exit") {
      if (state.slowness > 1) await sleep(Math.min(SLOWED_TO_MS, started + state.slowness * data.at_ms - performance.now())); // a busy server may be late
      signal.throwIfAborted();
      state.said[data.exit - 1] = data;
    } else {
      state.final = data;
    }
    drawRun();
  }
  if (state.final === null) throw new Problem(0, "No answer", "The connection ended before the answer was whole.");
}

function showRunError(error) {
  const box = $("#run-error"), isBusy = error.status === 503 || error.status === 0;
  box.replaceChildren(el("b", {}, `${error.title ?? "Error"}. `), sentence(error.message));
  if (isBusy) box.append(" ", el("button", { onclick: run }, "Try again"));
  box.hidden = false;
  if (error.status === 401) askForKey("This key is not one of the server's.", run);
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

/** One real request at this setting, beside what the page expects of it. */
async function askTheServer() {
  const { body, type } = state.input, expected = verdict(), asked = $("#asked");
  $("#ask").disabled = true;
  asked.textContent = "Asking …";
  try {
    const response = await ask(query(settingParameters()), { method: "POST", body, headers: { "Content-Type": type } });
    const said = await response.json();
    const isSame = expected !== null && said.exit === expected.exit && said.label === state.said[expected.exit - 1].label;
    const met = said.budget.met ? "" : ", later than asked";
    asked.textContent = `${isSame ? "✓ " : ""}The server says ${speak(said.label)}, at exit ${said.exit}, ${worded(said.stop_reason)}, in ${ms(said.cost.total_ms)}${met}.`;
    asked.dataset.answer = JSON.stringify(said);
  } catch (error) {
    asked.textContent = sentence(error.message);
  }
  $("#ask").disabled = false;
}

function drawCurl() {
  if (state.input === null) return;
  const url = new URL(query(settingParameters()), location.href), { type, fileName, text } = state.input;
  const quoted = (words) => `'${words.replaceAll("'", "'\\''")}'`;
  const key = sessionStorage.getItem(KEY) ? ` -H "Authorization: Bearer $KEY"` : "";
  const data = text === undefined ? `@${fileName}` : text;
  $("#curl").textContent = `curl --data-binary ${quoted(data)} -H ${quoted(`Content-Type: ${type}`)}${key} \\\n  ${quoted(url.href)}`;
}

// ---------------------------------------------------------------- inputs

/** Takes an image file: as it is where the server takes it, else redrawn here as a PNG. */
async function takeFile(file, name = file.name || "pasted image") {
  const turn = ++state.turn;
  let body = file, note = "", picture;
  try {
    picture = await createImageBitmap(file);
    const isLarge = picture.width * picture.height > MANY_PIXELS || file.size > MANY_BYTES;
    if (!TAKEN.has(file.type) || isLarge) [body, note] = [await redrawn(picture), isLarge ? ", sent smaller" : ", sent as PNG"];
  } catch {
    picture = null; // the server says what is wrong with it
  }
  if (turn !== state.turn) return; // another was chosen meanwhile
  const size = picture === null ? "" : ` · ${picture.width} × ${picture.height} pixels`;
  showPreview(picture === null ? null : file, picture);
  $("#file-name").textContent = `${name}${size}${note}`;
  state.input = { body, type: body.type || "application/octet-stream", fileName: name };
  await run();
}

/** The image as a PNG, with no side longer than SHRUNK_SIDE. */
async function redrawn(picture) {
  const scale = Math.min(1, SHRUNK_SIDE / Math.max(picture.width, picture.height));
  const canvas = el("canvas", { width: Math.round(scale * picture.width), height: Math.round(scale * picture.height) });
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, CONVERTED));
}

function showPreview(file, picture) {
  const preview = $("#preview");
  URL.revokeObjectURL(preview.src);
  preview.hidden = file === null;
  if (file === null) return;
  preview.src = URL.createObjectURL(file);
  preview.alt = "The image that was classified";
  preview.classList.toggle("tiny", Math.max(picture.width, picture.height) < 128);
}

function chosen(files) {
  for (const tile of document.querySelectorAll(".tiles button")) tile.ariaPressed = "false";
  if (files.length > 0 && kind() === "image") takeFile(files[0]);
}

const kind = () => state.version?.input.kind;

/** What is typed, as a request: a text, or a row of numbers given as JSON or with commas. */
function takeText() {
  const text = $("#text").value.trim();
  $("#run-error").hidden = true;
  if (text === "") return;
  if (kind() === "text") {
    state.input = { body: text, text, type: "text/plain; charset=utf-8" };
  } else {
    try {
      const row = /^[[{]/.test(text) ? JSON.parse(text) : text.split(/[\s,;]+/).map(number);
      const body = JSON.stringify({ rows: [row] });
      state.input = { body, text: body, type: "application/json" };
    } catch (error) {
      showRunError(new Problem(422, "This row cannot be read", error.message));
      return;
    }
  }
  run();
}

function number(text) {
  const value = Number(text);
  if (text === "" || Number.isNaN(value)) throw new Error(`${JSON.stringify(text)} is not a number`);
  return value;
}

function makeInput() {
  const isImage = kind() === "image", body = state.version.example?.body ?? {};
  $("#input-title").textContent = { image: "Image", text: "Text" }[kind()] ?? "Row";
  $("#image-input").hidden = !isImage;
  $("#text-input").hidden = isImage;
  $("#text-hint").textContent = isImage ? "" : hint(state.version.input);
  const known = isImage ? EXAMPLES.filter((label) => state.version.labels.includes(label)) : [];
  const given = isImage ? [] : (body.texts ?? body.rows ?? []);
  $("#examples .tiles").classList.toggle("texts", !isImage);
  $("#examples .tiles").replaceChildren(...known.map(imageTile), ...given.map(textTile));
  $("#examples").hidden = known.length + given.length === 0;
}

/** What a text or a row may be. */
function hint({ kind, max_characters: most, max_tokens: read, tensors }) {
  if (kind === "text") return most ? `At most ${most} characters, of which the model reads ${read} tokens.` : "";
  const parts = (tensors ?? []).map(({ name, dtype, shape }) => `${name}: ${dtype} ${shape.join(" × ")}`);
  return `Numbers with commas between them, or JSON. ${parts.join("; ")}`;
}

function imageTile(label) {
  const path = `page/examples/${label}.png`;
  const tile = el("button", { type: "button", ariaPressed: "false", title: label }, el("img", { src: path, alt: label }));
  tile.onclick = async () => {
    chosen([]);
    tile.ariaPressed = "true";
    try {
      await takeFile(await (await ask(path)).blob(), `${label}.png`);
    } catch (error) {
      showRunError(error);
    }
  };
  return tile;
}

function textTile(example) {
  const text = typeof example === "string" ? example : JSON.stringify(example);
  return el("button", { type: "button", onclick: () => { $("#text").value = text; takeText(); } }, text);
}

// ---------------------------------------------------------------- keys and models

let afterKey = start;

function askForKey(complaint = "", then = start) {
  afterKey = then;
  $("#key-error").textContent = complaint;
  $("#key").value = "";
  if (!$("#key-dialog").open) $("#key-dialog").showModal();
}

function useKey(event) {
  event.preventDefault();
  const key = $("#key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(key)) {
    $("#key-error").textContent = "A key has letters, digits and signs only, without spaces.";
    return;
  }
  sessionStorage.setItem(KEY, key);
  $("#key-dialog").close();
  afterKey();
}

async function start() {
  $("#server-error").hidden = true;
  const hadKey = sessionStorage.getItem(KEY) !== null;
  try {
    state.models = (await (await ask("v1/models")).json()).models;
  } catch (error) {
    if (error.status === 401) return askForKey(hadKey ? "This key is not one of the server's." : "");
    $("#server-error p").textContent = sentence(error.message);
    $("#server-error").hidden = false;
    return;
  }
  $("#change-key").hidden = !hadKey;
  const choices = state.models.flatMap(({ name, versions }) =>
    versions.map(({ version }) => el("option", { value: JSON.stringify([name, version]) }, `${name} · version ${version}`)));
  $("#model").replaceChildren(...(choices.length ? choices : [el("option", {}, "none is served")]));
  $("#model").disabled = choices.length === 0;
  const drawn = state.models.find(({ versions: [{ labels }] }) => EXAMPLES.every((label) => labels.includes(label)));
  if (drawn) $("#model").value = JSON.stringify([drawn.name, drawn.versions[0].version]);
  if (choices.length) await chooseModel();
}

async function chooseModel() {
  const [name, number] = JSON.parse($("#model").value), before = kind();
  const { versions } = state.models.find((model) => model.name === name);
  Object.assign(state, { name, version: versions.find(({ version }) => version === number), calibration: null, thresholdLine: [], samples: [], said: [], final: null });
  if (kind() !== before) {
    state.controller?.abort();
    Object.assign(state, { input: null, isRunning: false, turn: state.turn + 1 });
  }
  makeInput();
  makeExits();
  makePoints();
  draw();
  if (state.input !== null) run();
  await learnCalibration(name, state.version);
}

/** Fetches the calibration rows: with them the curve knows every setting. */
async function learnCalibration(name, version) {
  const path = `v1/models/${encodeURIComponent(name)}/calibration?version=${version.version}`;
  const rows = await ask(path).then((response) => response.json()).then(decodedCalibration).catch(() => null);
  if (rows === null || state.version !== version) return;
  const costs = expectedCosts(version), steps = Array.from({ length: 26 }, (_, k) => k / 25);
  state.calibration = rows;
  state.thresholdLine = steps.map((at) => replayed(rows, policyOfThreshold(at, numExits()), costs, NO_BUDGET));
  drawTrade();
}

// ---------------------------------------------------------------- what people do

function listenToPeople() {
  const drop = $("#drop");
  let isDrawing = false;
  const redraw = () => {
    if (isDrawing) return;
    isDrawing = true;
    requestAnimationFrame(() => { isDrawing = false; draw(); });
  };
  $("#settings").addEventListener("input", (event) => {
    if (event.target.name === "point") state.point = event.target.value;
    $("#asked").textContent = "";
    redraw();
  });
  $("#reset").onclick = () => {
    state.point = "balanced";
    $("#latency").value = $("#energy").value = 100;
    makePoints();
    draw();
  };
  for (const input of [$("#file"), $("#photo")]) {
    input.onchange = () => { chosen([...input.files]); input.value = ""; };
  }
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (event.relatedTarget === null) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    chosen([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length > 0) chosen([...event.clipboardData.files]);
  });
  $("#paste").hidden = navigator.clipboard?.read === undefined;
  $("#paste").onclick = pasteImage;
  $("#text-input").onsubmit = (event) => { event.preventDefault(); takeText(); };
  $("#text").onkeydown = (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) takeText(); };
  $("#ask").onclick = askTheServer;
  $("#copy").onclick = () => navigator.clipboard?.writeText($("#curl").textContent);
  $("#as-curl").open = matchMedia("(min-width: 960px)").matches;
  $("#model").onchange = chooseModel;
  $("#retry").onclick = start;
  $("#change-key").onclick = () => askForKey();
  $("#key-form").onsubmit = useKey;
  new ResizeObserver(() => { if (state.version !== null) drawTrade(); }).observe($("#chart"));
}

async function pasteImage() {
  try {
    for (const item of await navigator.clipboard.read()) {
      const type = item.types.find((name) => name.startsWith("image/"));
      if (type !== undefined) return await takeFile(await item.getType(type), "pasted image");
    }
    $("#file-name").textContent = "The clipboard holds no image.";
  } catch {
    $("#file-name").textContent = "The browser does not let this page read the clipboard. Press Ctrl+V instead.";
  }
}

listenToPeople();
await start();
watchLive();
