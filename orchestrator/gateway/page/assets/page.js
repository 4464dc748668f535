// The status page: takes the gateway's document from its events and shows it. Nodes are kept by key and changed in
// place, so that what is open, focused or being read stays so. Text of others is only ever set as text.

import { Chart, drawFrontier, el } from "./chart.js";
import { actionWords, age, bytes, numbersWords, part, quantity, rate, seconds, titled } from "./words.js";

const $ = (selector) => document.querySelector(selector);
const KEPT_S = 600, HIDDEN_MS = 60000, AGAIN_MS = 5000, ALERTS_SHOWN = 8;
const NO_TOKEN = "What this page shows is kept for tokens of tenants that have sees_status in the gateway’s tokens file.";
const told = $("#told");

let points = [], now = null, heardMs = null, periodS = 2, events = null, hiddenTimer = null, findTimer = null;
let refusal = "", seen = "";

const outcomes = [["answered", "Answered"], ["late", "Late"], ["refused", "Refused"], ["failed", "Failed"], ["callers", "Callers’ errors"]];
const colour = (name) => `var(--${name})`;
const charts = {
  ends: new Chart($("#chart-ends"), { format: rate, isStacked: true }),
  latency: new Chart($("#chart-latency"), { format: seconds }),
  widths: new Chart($("#chart-widths"), { format: rate, isStacked: true }),
  queue: new Chart($("#chart-queue"), { format: (value) => quantity(value) }),
};

// --- nodes ---

// Let `parent` have one child for each item, in their order; `make` returns a new one, `change` shows the item in it.
function keep(parent, items, key, make, change) {
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map((item) => {
    const name = String(key(item));
    const child = known.get(name) ?? make(item);
    child.dataset.key = name;
    known.delete(name);
    change(child, item);
    return child;
  });
  known.forEach((child) => child.remove());
  wanted.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  if (focused !== document.activeElement) focused?.focus({ preventScroll: true }); // what is moved loses it
}

// Replace children only when they would differ: whoever reads or selects them is not disturbed.
function put(parent, ...children) {
  const holder = el("div", {}, ...children.filter((child) => child !== null));
  if (holder.innerHTML !== parent.innerHTML) parent.replaceChildren(...holder.childNodes);
}

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function badge(node, level, text) {
  node.className = `badge ${level}`;
  set(node, text);
}

const rows = (pairs) => pairs.filter((pair) => pair !== null).flatMap(([name, ...value]) => [el("dt", {}, name), el("dd", {}, ...value)]);

function meter(value, most, words, high = 0.9) {
  if (value === null || !most) return ["–"];
  return [el("meter", { min: 0, max: most, low: most * 0.75, high: most * high, optimum: 0, value: Math.min(value, most), "aria-label": words }), words];
}

function empty(section, text) {
  const node = $(`${section} > .empty`);
  node.hidden = !text;
  set(node, text ?? "");
}

// --- sections ---

function showHead(doc) {
  badge($("#ready"), doc.unready ? "bad" : "good", doc.unready ? "Not ready" : "Ready");
  const processes = doc.workers === 1 ? "1 process" : `${doc.workers} processes`;
  set($("#facts"), [doc.policy && `Policy ${doc.policy.name}`, processes, `version ${doc.version}`].filter(Boolean).join(" · "));
  document.title = doc.alerts.length ? `(${doc.alerts.length}) Slim Scheduler` : "Slim Scheduler";
  showAlerts(doc.alerts);
}

// They are told once to who listens, and again when there are more or fewer or another is the worst: not each number.
function showAlerts(alerts) {
  const more = alerts.length - ALERTS_SHOWN, [worst] = alerts, list = $("#alerts ul");
  keep(list, alerts.slice(0, ALERTS_SHOWN), (alert) => alert.key, () => el("li", {}, el("a")), (item, alert) => {
    const link = item.firstChild;
    link.href = `#${alert.section}`;
    link.className = alert.level;
    set(link, alert.text);
  });
  empty("#alerts", more > 0 ? `and ${more} more` : null);
  const what = alerts.length === 1 ? "1 thing needs" : `${alerts.length} things need`, state = worst ? `${alerts.length} ${worst.level} ${worst.key}` : "";
  if ((told.dataset.state ?? "") === state) return;
  told.dataset.state = state;
  told.textContent = worst ? `${what} attention. ${worst.text}` : "Nothing needs attention any more.";
}

function showTraffic(doc) {
  const { traffic, energy } = doc, sent = traffic.sent_per_s;
  const share = (end) => [`${rate(traffic[`${end}_per_s`])}/s`, sent ? `${part(traffic[`${end}_per_s`] / sent)} of all` : "no traffic"];
  set($("#window"), `over the last ${Math.round(doc.window_s)} s`);
  const quality = servedQuality(doc);
  const tiles = [
    ["Sent", `${rate(sent)}/s`, `${quantity(traffic.in_flight)} in flight`],
    ["Answered", ...share("answered")],
    ["Late", ...share("late")],
    ["Refused", ...share("refused")],
    ["Failed", ...share("failed")],
    ["Latency p95", seconds(traffic.latency_p95_s), `p50 ${seconds(traffic.latency_p50_s)}, p99 ${seconds(traffic.latency_p99_s)}`],
    ["Queue", `${quantity(traffic.queue_items)} items`, `p95 wait ${seconds(traffic.queue_p95_s)}`],
    quality && ["Quality served", quality.served.toFixed(3), `of at most ${quality.most.toFixed(3)}`],
    ["Power", energy.power_w === null ? "–" : `${quantity(energy.power_w)} W`, energy.power_w === null ? "not known of all" : `${quantity(energy.j_per_answer)} J an answer`],
  ].filter(Boolean);
  keep($("#tiles"), tiles, (tile) => tile[0], (tile) => el("div", {}, el("dt", {}, tile[0]), el("dd"), el("dd")), (node, tile) => {
    set(node.children[1], tile[1]);
    set(node.children[2], tile[2]);
  });
  $("#tiles").title = energy.reason;
}

// The mean quality of answers, of a fleet with one family: scales of several can't be added.
function servedQuality(doc) {
  const families = doc.families.filter((family) => family.widths.length);
  if (families.length !== 1 || doc.families_total !== doc.families.length) return null;
  const { widths } = families[0], total = widths.reduce((sum, width) => sum + width.answered_per_s, 0);
  const most = Math.max(...widths.map((width) => width.quality));
  return total ? { most, served: widths.reduce((sum, width) => sum + width.quality * width.answered_per_s, 0) / total } : null;
}

const widthColour = (index, count) => colour(`w${count === 1 ? 3 : 1 + Math.round((index * 4) / (count - 1))}`);

function showCharts() {
  const apartS = 4 * periodS;
  charts.ends.show(points, outcomes.map(([end, name]) => ({ name, colour: colour(end), read: (point) => point[`${end}_per_s`] })), apartS);
  charts.latency.show(points, [["p50", "w2", ""], ["p95", "w4", ""], ["p99", "refused", "4 3"]].map(
    ([name, hue, dash]) => ({ name, colour: colour(hue), dash, read: (point) => point[`latency_${name}_s`] })), apartS);
  const widths = [...new Set(points.flatMap((point) => Object.keys(point.per_s_by_width)))].sort((a, b) => a - b);
  charts.widths.show(points, widths.map((width, index) => (
    { name: `${width} %`, colour: widthColour(index, widths.length), read: (point) => point.per_s_by_width[width] ?? 0 })), apartS);
  charts.queue.show(points, [
    { name: "Items waiting", colour: colour("late"), read: (point) => point.queue_items },
    { name: "Batches running", colour: colour("w3"), read: (point) => point.batches_in_flight },
  ], apartS);
}

const LEVELS = { up: "good", suspect: "warn", ejected: "bad", down: "bad" };

function showServers(doc) {
  const more = doc.servers_total - doc.servers.length;
  const up = doc.servers.filter((server) => server.condition === "up").length + more;
  set($("#servers small"), `${up} of ${doc.servers_total} up${more ? `; ${more} that are up are not shown` : ""}`);
  $("#servers > .empty").hidden = doc.servers.length > 0;
  $("#gateways").hidden = doc.gateways.length === 0;
  set($("#gateways"), `Gateways that share the fleet: ${doc.gateways.join(", ")}`);
  keep($("#servers .cards"), doc.servers, (server) => server.name, () => el("li"), (card, server) => {
    const level = LEVELS[server.condition] ?? "warn", control = server.controller;
    card.className = `card ${level === "good" ? "" : level}`;
    put(card,
      el("div", { class: "head" }, el("h3", {}, server.name), el("span", { class: `badge ${level}` }, server.condition)),
      server.reason ? el("p", { class: level }, server.reason) : null,
      el("dl", { class: "rows" }, ...rows([
        server.device_class ? ["Device class", server.device_class] : null,
        ["Answers a second", rate(server.answered_per_s)],
        ["Batches there", quantity(server.batches_in_flight)],
        control && ["Load", ...meter(control.utilisation_ratio, 1, part(control.utilisation_ratio))],
        control && ["Memory", ...meter(control.used_bytes, control.budget_bytes, bytes(control.used_bytes))],
        control && ["Power", control.power_w === null ? "–" : `${quantity(control.power_w)} W`],
        typeof control?.idle_w === "number" ? ["Idle", `${quantity(control.idle_w)} W, ${quantity(control.idle_j)} J so far`] : null,
        server.models === 0 ? ["Models", "none"] : null,
        server.driver === null ? null : ["Driven by", server.driver || "nobody"],
      ])),
      server.instances.length ? el("ul", { class: "chips", "aria-label": "Instances by width" },
        ...server.instances.map(([width, instances]) => el("li", {}, `${width} % × ${instances}`))) : null,
      control && Object.keys(control.request_j).length ? el("ul", { class: "chips", "aria-label": "Joules a request" },
        ...Object.entries(control.request_j).map(([model, joules]) => el("li", {}, `${model}: ${quantity(joules)} J a request`))) : null,
      server.left_out.length ? el("p", { class: "warn" }, `Left out: ${server.left_out.slice(0, 4).join(", ")}${server.left_out.length > 4 ? ` and ${server.left_out.length - 4} more` : ""}`) : null,
      ...controllerLines(control),
    );
  });
}

function controllerLines(control) {
  if (control === null) return [];
  const trouble = control.reason || control.trouble;
  return [
    trouble ? el("p", { class: "warn" }, `Controller: ${trouble}`) : null,
    ...control.refusals.slice(0, 2).map((refusal) => el("p", {}, `Refused: ${actionWords(refusal)}${numbersWords(refusal.numbers)}`)),
    ...control.notices.slice(0, 2).map((notice) => el("p", {}, `${titled(notice.kind)}${notice.model ? ` ${notice.model}` : ""}${numbersWords(notice.numbers)} ${notice.detail ?? ""}`)),
  ];
}

function showFamilies(doc) {
  const shown = doc.families.length, found = doc.families_found;
  const words = found === doc.families_total ? `${found}` : `${found} of ${doc.families_total} found`;
  set($("#families small"), shown < found ? `${words}, the busiest ${shown} shown` : words);
  empty("#families", shown ? null : $("#find").value ? "No model has that in its name." : "No model is known yet.");
  keep($("#families tbody"), doc.families, (family) => family.name, () => el("tr"), (row, family) => {
    const { widths } = family, total = widths.reduce((sum, width) => sum + width.answered_per_s, 0);
    const share = (end) => (family.sent_per_s ? part(family[`${end}_per_s`] / family.sent_per_s) : "–");
    const served = widths.reduce((sum, width) => sum + width.quality * width.answered_per_s, 0);
    put(row,
      el("th", { scope: "row" }, family.name),
      el("td", { class: "n" }, rate(family.sent_per_s)),
      ...["answered", "late", "refused", "failed"].map((end) => el("td", { class: "n" }, share(end))),
      el("td", { class: "n" }, seconds(family.latency_p95_s)),
      el("td", { class: "n" }, total ? (served / total).toFixed(3) : "–"),
      el("td", {}, widths.length ? mix(widths, total) : "passed through"),
    );
    row.querySelectorAll(".mix i").forEach((bar, index) => {
      bar.style.width = `${(100 * widths[index].answered_per_s) / (total || 1)}%`;
      bar.style.background = widthColour(index, widths.length);
    });
  });
}

function mix(widths, total) {
  const words = widths.map((width) => `${width.width} %: ${total ? part(width.answered_per_s / total) : "–"}`).join(", ");
  return el("span", { class: "mix", role: "img", title: words, "aria-label": words }, ...widths.map(() => el("i")));
}

// Of what a width has run, the part that was answered before its deadline; null where it has run nothing.
function inTime(width) {
  const ran = width.answered_per_s + width.late_per_s;
  return ran ? width.answered_per_s / ran : null;
}

function showFrontier(doc) {
  const families = doc.families.filter((family) => family.widths.length), select = $("#family");
  $("#frontier").hidden = families.length === 0;
  if (!families.length) return;
  const chosen = families.find((family) => family.name === select.value) ?? families[0];
  keep(select, families, (family) => family.name, (family) => el("option", {}, family.name), () => {});
  select.value = chosen.name;
  drawFrontier($("#frontier .scatter"), chosen, seconds);
  const total = chosen.widths.reduce((sum, width) => sum + width.answered_per_s, 0);
  keep($("#frontier tbody"), chosen.widths, (width) => width.width, () => el("tr"), (row, width) => put(row,
    el("th", { scope: "row" }, `${width.width} %`),
    ...[width.quality.toFixed(4), part(inTime(width)), seconds(width.item_s), width.item_j === null ? "–" : `${quantity(width.item_j)} J`, `${width.servers}`,
      `${width.instances}`, total ? part(width.answered_per_s / total) : "–"].map((text) => el("td", { class: "n" }, text))));
}

function showPolicy(doc) {
  const { policy, traffic } = doc;
  const counts = (found) => (found.length ? found.map((one) => `${one.reason.replaceAll("_", " ")} ${rate(one.per_s)}/s`).join(", ") : "none");
  const { standing } = policy ?? {};
  put($("#policy .rows"), ...(policy === null ? [el("dd", {}, "Nothing is known yet.")] : rows([
    ["In force", standing ? `${policy.name}, since ${age(doc.unix_s - standing.since_unix_s)}, because ${standing.why}` : policy.name],
    standing?.candidate ? ["Rollout", `${standing.candidate}, ${standing.stage} since ${age(doc.unix_s - standing.candidate_since_unix_s)}, because ${standing.candidate_why}`] : null,
    ["Fallback", policy.is_paused ? `${policy.fallback}, deciding now` : policy.fallback],
    ["Fallback decided", counts(policy.fallbacks)],
    policy.shadow ? ["Shadow", `${policy.shadow}: ${counts(policy.shadow_outcomes)}`] : null,
    ["Decisions", `${rate(policy.decisions_per_s)}/s`],
    ["Time for one", `p50 ${seconds(policy.p50_s)}, p99 ${seconds(policy.p99_s)}`],
    ["Given up for load", counts(traffic.sheds)],
  ])));
}

function showActions(doc) {
  const has = doc.servers.some((server) => server.controller !== null);
  empty("#actions", doc.actions.length ? null : has ? "Controllers have changed nothing yet." : "No server names a controller in fleet.yaml.");
  keep($("#actions .events"), doc.actions, (done) => `${done.server} ${done.ended_unix_s} ${done.kind} ${done.model}`, () => el("li"), (item, done) => {
    const state = done.error ? ["bad", ` failed: ${done.error}`] : done.is_under_way ? ["warn", " under way"] : ["", ""];
    put(item, el("time", { datetime: new Date(done.ended_unix_s * 1e3).toISOString() }, age(done.ago_s)),
      el("div", {}, el("b", {}, done.server), ` ${actionWords(done)}`, el("span", { class: state[0] }, state[1]),
        el("span", { class: "numbers" }, numbersWords(done.numbers))));
  });
}

function showDecisions(doc) {
  const { decisions } = doc;
  set($("#decisions small"), decisions.is_written ? `1 in ${quantity(1 / decisions.sample_ratio)} is written` : "");
  empty("#decisions", decisions.entries.length ? null : decisions.is_written ? "None was written yet." :
    "Decisions are not written. Give router.decision_log a directory in fleet.yaml, and open any of them here.");
  // One that somebody has opened, or is on with the keyboard, stays although newer ones have come.
  const list = $("#decisions .details"), newest = new Set(decisions.entries.map((entry) => entry.id));
  const read = [...list.children].filter((item) => !newest.has(item.dataset.key) && (item.open || item.querySelector(":focus-visible")));
  keep(list, [...decisions.entries, ...read.map((item) => item.entry)], (entry) => entry.id, (entry) => Object.assign(el("details", {},
    el("summary", {}, el("time", { datetime: new Date(entry.unix_s * 1e3).toISOString() }), el("code", {}, entry.id), el("span", {}, `${entry.family}: ${entry.title}`)),
    ...entry.lines.map((line) => el("p", {}, line))), { entry }), (item, entry) => set(item.querySelector("time"), age(doc.unix_s - entry.unix_s)));
}

function show(doc) {
  for (const section of [showHead, showTraffic, showServers, showFamilies, showFrontier, showPolicy, showActions, showDecisions]) section(doc);
}

// --- events ---

function take(data) {
  const message = JSON.parse(data), { keys, rows: values, period_s } = message.points;
  const given = values.map((row) => Object.fromEntries(row.map((value, index) => [keys[index], value])));
  if (given.length && points.length && given.at(-1).unix_s < points.at(-1).unix_s) points = []; // the clock was set back
  const newest = points.length ? points.at(-1).unix_s : 0;
  points = [...points, ...given.filter((point) => point.unix_s > newest)];
  if (points.length) points = points.filter((point) => point.unix_s > points.at(-1).unix_s - KEPT_S);
  periodS = period_s;
  heardMs = performance.now();
  refusal = "";
  now = message.traffic ? message : null;
  if (now) show(now);
  else badge($("#ready"), "warn", "starting, or ending");
  showCharts();
  showLive();
}

// Read by hand, because a browser's own reader of events can send no token but in the address, and that is logged.
async function connect() {
  events?.abort();
  const asking = events = new AbortController(), token = sessionStorage.getItem("token");
  const headers = { ...(seen && { "Last-Event-ID": seen }), ...(token && { Authorization: `Bearer ${token}` }) };
  try {
    const url = `events?find=${encodeURIComponent($("#find").value.trim())}`;
    refusal = await read(await fetch(url, { headers, signal: asking.signal, cache: "no-store" }));
  } catch {
    refusal = heardMs === null ? "no answer" : ""; // how long there was none says more
  }
  if (events !== asking) return;
  showLive();
  setTimeout(() => { if (events === asking) connect(); }, AGAIN_MS);
}

// Take events until there are no more; return in words why there were none, or nothing.
async function read(answer) {
  const { status } = answer;
  if (status === 401 || status === 403) {
    askForToken(status === 403 ? await answer.text() : sessionStorage.getItem("token") ? "This token is not known." : NO_TOKEN);
    return "closed";
  }
  if (status !== 200) return [429, 503].includes(status) ? "refused: too many pages are open" : `refused: the answer is ${status}`;
  askForToken(null);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
    const lines = (rest + chunk.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("id: ")) seen = line.slice(4);
      else if (line.startsWith("data: ")) take(line.slice(6));
    }
  }
  return "";
}

// Why a token is needed; null: none is. What was shown before is not, as long as one is.
function askForToken(why) {
  const wasHidden = $("#token").hidden;
  if (why !== null) heardMs = null;
  $("#token").hidden = why === null;
  $("#main").classList.toggle("closed", why !== null);
  set($("#token-why"), why ?? "");
  if (why !== null && wasHidden) $("#token input").focus();
}

// A link may bring a token behind its #, which browsers send to nobody; it stays in this tab until that is closed.
function takeToken() {
  const [, token] = location.hash.match(/^#token=([!-~]+)$/) ?? [];
  if (!token) return false;
  sessionStorage.setItem("token", token);
  history.replaceState(null, "", location.pathname + location.search);
  return true;
}

function showLive() {
  const silentS = heardMs === null ? null : (performance.now() - heardMs) / 1e3;
  if (silentS !== null && silentS < 3 * periodS) badge($("#live"), "good", "Live");
  else badge($("#live"), "warn", refusal || (silentS === null ? "connecting" : `no news for ${Math.floor(silentS / 5) * 5} s`));
}

// A page that nobody sees gives its place back, and comes again with all that it has missed.
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiddenTimer);
  if (document.hidden) hiddenTimer = setTimeout(() => { events?.abort(); events = null; }, HIDDEN_MS);
  else if (!events || heardMs === null || performance.now() - heardMs > 3000 * periodS) connect();
});
$("#find").addEventListener("input", () => {
  clearTimeout(findTimer);
  findTimer = setTimeout(connect, 300);
});
$("#family").addEventListener("change", () => { if (now) showFrontier(now); });
$("#token form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("#token input").value.trim());
  $("#token input").value = "";
  connect();
});
window.addEventListener("hashchange", () => { if (takeToken()) connect(); });
setInterval(showLive, 1000);
takeToken();
connect();
