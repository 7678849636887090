// Shows what /events sends. Whatever comes out of a record is put in as text, never as markup.
"use strict";

const SECONDS = 300; // shown in the charts
const STALE_SECONDS = 5;
const COLUMNS = {
  fraud: ["amount", "currency", "source", "target"],
  dead_letter: ["message", "value"],
  alerts: ["rule", "target", "sources", "sum", "currency", "first", "last"],
};
const NUMBERS = new Set(["amount", "sources", "sum"]);

const element = (id) => document.getElementById(id);
const colour = (name) => () => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`) || "gray";
const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const percent = (share) => `${number(share * 100, 2)} %`;
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
const rate = (value) => number(value, value < 100 ? 1 : 0);

function make(tag, text, className) {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className || "";
  return made;
}

function put(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

// --- charts: each column of a row of /events is a line in one of them ---

let rows = []; // of each: time, fraud share, lag, p50, p99, and each topic's rate
const charts = [];

function chart(id, label, lines, show, range = (high) => [0, high > 0 ? high * 1.15 : 1]) {
  const place = element(id);
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", `${label} over the last five minutes`);
  const axis = { stroke: colour("faint"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false } };
  const size = () => ({ width: Math.max(place.clientWidth, 100), height: 124 });
  const plot = new uPlot({
    ...size(),
    padding: [8, 8, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: "time" } },
    legend: { markers: { width: 0 }, isolate: false },
    scales: { x: { range: (_, low, high) => [high - SECONDS, high] }, y: { range: (_, low, high) => range(high, low) } },
    axes: [
      { ...axis, space: 55, incrs: [60, 120, 240], size: 24, values: (_, ticks) => ticks.map((tick) => clock(tick).slice(0, 5)) },
      { ...axis, size: 48, space: 30, values: (_, ticks) => ticks.map((tick) => Intl.NumberFormat("en", { notation: "compact" }).format(tick)) },
    ],
    series: [
      { label: "", value: (_, seconds) => (seconds === null ? "–" : clock(seconds)) },
      ...lines.map(({ name, stroke, dash }) => ({
        label: name, stroke: colour(stroke), width: 2, dash, points: { show: false },
        value: (_, value) => (value === null ? "–" : show(value)),
      })),
    ],
  }, [[], ...lines.map(() => [])], place);
  new ResizeObserver(() => plot.setSize(size())).observe(place);
  charts.push({ plot, columns: lines.map(({ column }) => column) });
}

function draw() {
  for (const { plot, columns } of charts) {
    plot.setData([rows.map((row) => row[0]), ...columns.map((column) => rows.map((row) =>
      typeof column === "number" ? row[column] : row[2] === null ? null : column()))]);
    if (plot.cursor.idx == null && rows.length) plot.setLegend({ idx: rows.length - 1 });
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(({ plot }) => plot.redraw()));

// --- figures ---

let expectedShare = 0;

function firstTime(figures) {
  expectedShare = figures.expected_share;
  chart("share-chart", "Fraud share in percent", [
    { name: "fraud %", stroke: "fraud", column: 1 },
    { name: "expected", stroke: "expected", dash: [6, 4], column: () => expectedShare * 100 },
  ], (value) => number(value, 2), (high, low) => [Math.max(0, low - 1), high + 1]);
  chart("lag-chart", "Detector lag in records", [{ name: "records", stroke: "transactions", column: 2 }], number);
  chart("latency-chart", "Latency in milliseconds", [
    { name: "p50 ms", stroke: "transactions", column: 3 },
    { name: "p99 ms", stroke: "dead_letter", column: 4 },
  ], number);
  figures.topics.forEach(({ name, topic }, index) => {
    const card = make("article", "");
    const heading = make("h3", topic);
    const chartPlace = make("div", "", "chart");
    heading.id = `${name}-name`;
    chartPlace.id = `${name}-chart`;
    card.setAttribute("aria-labelledby", heading.id);
    const text = document.createElement("p");
    const [records, perSecond] = [make("span", ""), make("strong", "")];
    records.id = `${name}-records`;
    perSecond.id = `${name}-rate`;
    text.append(perSecond, " per second, ", records, " records");
    card.append(heading, text, chartPlace);
    element("topics").append(card);
    chart(chartPlace.id, `Records a second in ${topic}`, [{ name: "per second", stroke: name, column: index + 5 }], rate);
  });
}

function list(name, found) {
  const body = element(name);
  const key = JSON.stringify(found);
  if (body.shown === key) return;
  body.shown = key;
  const headings = [...body.parentElement.tHead.rows[0].cells].map((heading) => heading.textContent);
  body.replaceChildren(...found.map((item) => {
    const row = document.createElement("tr");
    row.append(make("td", clock(item.at), "time"), ...COLUMNS[name].map((column) =>
      make("td", item[column] ?? "", NUMBERS.has(column) ? "number" : column)));
    headings.forEach((heading, index) => { row.cells[index].dataset.name = heading; }); // shown on a phone
    return row;
  }));
  if (!found.length) body.insertRow().append(make("td", "none yet", "none"));
}

function banner(problems) {
  const texts = problems.map(({ text, since }) => `${text}, since ${clock(since)}.`);
  const key = texts.join("\n");
  if (element("banner").shown === key) return; // a screen reader says it once
  element("banner").shown = key;
  element("banner").replaceChildren(...texts.map((text) => make("p", text)));
}

function show(figures) {
  put("title", figures.title);
  if (!figures.topics) return;
  if (!charts.length) firstTime(figures);
  put("share", percent(figures.share));
  put("expected", `expected ${percent(figures.expected_share)}`);
  put("lag", number(figures.lags.detector));
  put("p50", `${number(figures.p50)} ms`);
  put("p99", `${number(figures.p99)} ms`);
  const skipped = figures.skipped ? `; ${number(figures.skipped)} skipped, the last in ${figures.last_skipped}` : "";
  put("since", `Records since ${clock(figures.started)}${skipped}.`);
  for (const { name, records, rate: perSecond } of figures.topics) {
    put(`${name}-records`, number(records));
    put(`${name}-rate`, rate(perSecond));
  }
  for (const name of Object.keys(COLUMNS)) list(name, figures[name]);
  element("alerts-section").hidden = !("alerter" in figures.lags);
  if (!element("alerts-section").hidden) {
    for (const name of ["smurfing", "alerter"]) put(`${name}-lag`, number(figures.lags[name]));
    put("alerts-records", number(figures.alert_count));
  }
  draw();
}

// --- events ---

let newest = null; // the figures that came last
let freshAt = performance.now();
let isPaused = false;

function take(figures) {
  if (figures.is_first) rows = [];
  rows = rows.concat(figures.rows).slice(-SECONDS);
  if (!newest || figures.taken !== newest.taken) freshAt = performance.now();
  newest = figures;
  banner(figures.problems); // what is wrong is said even if the rest stands still
  if (!isPaused && !document.hidden) show(figures);
}

// A browser opens six connections to a host, and each stream takes one. So one tab has the stream, by a lock, and passes on
// what comes. A tab that nobody sees gives up the lock, or its place in the queue.
const tabs = new BroadcastChannel("events");
let source = null; // in the tab that has the stream
let turn = new AbortController();

tabs.onmessage = ({ data }) => {
  if (data !== "hello") take(data);
  else if (source && newest) tabs.postMessage({ ...newest, rows, is_first: true });
};

function connect() {
  source = new EventSource("events");
  source.onmessage = (event) => {
    const figures = JSON.parse(event.data);
    take(figures);
    tabs.postMessage(figures);
  };
  source.onerror = ({ target }) => {
    // The browser tries again by itself, unless the server has refused.
    if (target.readyState === EventSource.CLOSED) setTimeout(() => target === source && connect(), 2000);
  };
}

function join() {
  turn.abort();
  if (document.hidden) return;
  freshAt = performance.now();
  turn = new AbortController();
  const { signal } = turn;
  tabs.postMessage("hello");
  navigator.locks.request("events", { signal }, () => new Promise((resolve) => {
    connect();
    signal.addEventListener("abort", () => {
      source.close();
      source = null;
      resolve();
    });
  })).catch(() => {}); // given up while it waited
}

function state() {
  const isStale = performance.now() - freshAt > STALE_SECONDS * 1000;
  const name = isPaused ? "waiting" : isStale ? "stale" : newest ? "live" : "waiting";
  const of = newest?.taken ? `figures of ${clock(newest.taken)}, trying again` : "no figures yet, trying again";
  put("state", isPaused ? "paused" : isStale ? `stale: ${of}` : newest ? "live" : "connecting …");
  if (element("state").className !== name) element("state").className = name;
  document.body.classList.toggle("stale", isStale);
}

element("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  element("pause").setAttribute("aria-pressed", String(isPaused));
  if (newest) show(newest);
  state();
});
setInterval(state, 500);
document.addEventListener("visibilitychange", join);
join();
