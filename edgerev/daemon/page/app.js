"use strict";
// The daemon's page: asks for the history once, then follows the stream of events and draws what they say.

const $ = id => document.getElementById(id);
const KEY = "edgerev-token", MOST_POINTS = 960, MOST_EVENTS = 50;
const points = [], marks = [], events = [];  // points of windows that are over; that of the one at hand is the status's
let token = sessionStorage.getItem(KEY) || "", status = null, drawn = {};

// -- making elements ------------------------------------------------------------------------------------------------

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function draw(name, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}

function write(id, text) {  // only what has changed: screen readers and selections are not disturbed
  if ($(id).textContent !== text) $(id).textContent = text;
}

function changed(name, value) {  // whether something has to be built anew
  const text = JSON.stringify(value), before = drawn[name];
  drawn[name] = text;
  return text !== before;
}

const show = (id, shown) => { $(id).hidden = !shown; };
const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replaceAll(",", "\u202f");
const percent = value => `${number(100 * value, 1)}\u202f%`;
const clock = seconds => new Date(1000 * seconds).toLocaleTimeString("en-GB");
const plain = word => word.replaceAll("_", " ");

function bytes(size) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  for (; size >= 1024 && place < 4; place++) size /= 1024;
  return `${number(size, place && size < 100 ? 1 : 0)}\u202f${units[place]}`;
}

function span(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = Math.max(0, parts.findIndex(([size]) => seconds >= size));
  const text = parts.slice(first, first + 2).map(([size, unit], place) =>
    `${Math.floor(place ? seconds % parts[first][0] / size : seconds / size)}\u202f${unit}`);
  return seconds < 1 ? "0\u202fs" : text.join(" ");
}

// -- asking ---------------------------------------------------------------------------------------------------------

function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  return fetch(path, { cache: "no-store", ...options, headers });
}

async function follow() {
  for (let wait = 500; ; wait = Math.min(2 * wait, 10000)) {
    try {
      const response = await ask("v1/events");
      if (response.status === 401) return login();
      if (response.ok) {
        await refill();
        wait = 500;
        for await (const [kind, data] of parts(response.body.getReader())) take(kind, data);
      } else tell("wait", (await response.json()).error);
    } catch { /* the daemon is away, or its answer broke off */ }
    if (status) tell("off", "No connection");
    await new Promise(done => setTimeout(done, wait));
  }
}

async function* parts(reader) {
  const decoder = new TextDecoder();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + decoder.decode(value, { stream: true })).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map(line => line.split(/: (.*)/s)));
      if (fields.data) yield [fields.event, JSON.parse(fields.data)];
    }
  }
}

async function refill() {  // what the stream tells first is the recent past
  const found = await (await ask("v1/history")).json();
  points.splice(0, Infinity, ...found.points);
  marks.splice(0, Infinity, ...found.marks);
  events.length = 0;
  drawn = {};
}

function take(kind, data) {
  if (kind === "event") {
    events.unshift(data);
    events.length = Math.min(events.length, MOST_EVENTS);
    if (["drift", "rollback"].includes(data.kind) && !marks.some(mark => Math.abs(mark[0] - data.time) < 1 && mark[2] === data.kind))
      marks.push([data.time, 0, data.kind, data.message || ""]);
  } else if (kind === "status") {
    status = data;
    if (data.last_window && !(points.at(-1)?.[1] >= data.last_window[1])) points.push(data.last_window);
    if (points.length > MOST_POINTS) points.splice(0, points.length - MOST_POINTS);
    render();
  }
}

// -- login and controls ---------------------------------------------------------------------------------------------

function login() {
  show("login-problem", Boolean(token));
  write("login-problem", token ? "This is not the daemon's token." : "");
  sessionStorage.removeItem(KEY);
  token = "";
  show("login", true);
  show("panels", false);
  tell("off", "Locked");
  $("token").focus();
}

$("login-form").addEventListener("submit", event => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  sessionStorage.setItem(KEY, token);
  show("login", false);
  show("panels", true);
  follow();
});

for (const button of document.querySelectorAll("[data-do]")) {
  button.addEventListener("click", async () => {
    if (button.id === "rollback" && !confirm("Go back to the last accepted model? What was learned since is lost.")) return;
    button.setAttribute("aria-busy", "true");
    try {
      const response = await ask("v1/control", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ do: button.dataset.do }),
      });
      const answer = await response.json();
      if (response.ok) take("status", answer);
      else warn(answer.error);
    } catch {
      warn("The daemon cannot be reached.");
    }
    button.removeAttribute("aria-busy");
  });
}

function warn(text) {
  write("notice", text);
  show("notice", Boolean(text));
}

function tell(tone, text) {
  write("state-text", text);
  $("state").dataset.tone = tone;
}

// -- the panels -----------------------------------------------------------------------------------------------------

function render() {
  const { problem, waits_for: reason, latest, to_learn: due, unlabelled, unsaved, most_samples: most, controls } = status;
  if (problem) tell("bad", "Stopped");
  else if (reason) tell("wait", reason === "paused" ? "Paused" : `Waiting: ${reason}`);
  else tell("good", status.samples_per_second ? "Learning" : "Idle");
  warn([problem, status.store_problem, ...status.problems].filter(Boolean).join("; "));
  const paused = reason === "paused";
  $("toggle").dataset.do = paused ? "resume" : "pause";
  write("toggle", paused ? "Resume" : "Pause");
  for (const id of ["toggle", "save", "rollback"]) show(id, controls.includes($(id).dataset.do));

  write("model", status.model);
  write("accuracy", latest ? percent(latest[3]) : "–");
  write("loss", latest ? number(latest[2], 3) : "–");
  write("rate", number(status.samples_per_second, status.samples_per_second < 10 ? 1 : 0));
  const kept = due + unlabelled + unsaved;
  write("queue", number(due));
  write("queue-note", unlabelled ? `and ${number(unlabelled)} without label` : "samples");
  write("unsaved", number(unsaved));
  $("queue-gauge").style.width = `${100 * kept / most}%`;
  $("queue-gauge").classList.toggle("full", kept > .9 * most);
  write("celsius", status.celsius === null ? "–" : `${number(status.celsius, 1)}\u202f°C`);
  write("celsius-note", status.celsius === null ? "no sensor" : "hottest zone");
  write("about", `edgerev ${status.version}, running for ${span(status.uptime_seconds)}`);
  document.title = latest ? `${percent(latest[3])} – edgerev` : "edgerev";
  renderChart();
  renderMemory();
  renderAnswers();
  renderEvents();
  renderWork();
}

function list(id, rows) {
  if (!changed(id, rows.map(row => row.slice(0, 3)))) return;
  $(id).replaceChildren(...rows.map(([name, value, swatch]) => {
    const term = make("dt", {}, name);
    if (swatch) term.prepend(make("span", { class: `swatch ${swatch}`, "aria-hidden": "true" }));
    return make("div", {}, term, make("dd", {}, value));
  }));
}

function renderMemory() {
  const regions = Object.entries(status.regions).sort((one, other) => other[1] - one[1]);
  const arena = status.arena_bytes, rss = status.rss_bytes ?? arena, limit = status.memory_limit ?? 0;
  const shown = regions.slice(0, 7), others = regions.slice(7).reduce((sum, [, size]) => sum + size, 0);
  if (others) shown.push(["other regions", others]);
  bar("arena", shown.map(([name, size], place) => [plain(name), size, `k${place}`]), arena);
  bar("process", [["arena", arena, "whole"], ["Python and libraries", Math.max(rss - arena, 0), "rest"]], Math.max(limit, rss));
  write("arena-total", bytes(arena));
  write("process-total", limit ? `${bytes(rss)} of ${bytes(limit)}` : bytes(rss));
  $("process-total").classList.toggle("bad", Boolean(limit) && rss > limit);
  write("process-peak", status.peak_rss_bytes ? `${bytes(status.peak_rss_bytes)} at most since the start` : "");
}

function bar(id, segments, total) {
  list(`${id}-list`, segments.map(([name, size, swatch]) => [name, bytes(size), swatch]));
  if (!changed(`${id}-bar`, [segments, total])) return;
  $(`${id}-bar`).replaceChildren(...segments.map(([, size, swatch]) => {
    const part = make("i", { class: swatch });
    part.style.width = `${100 * size / total}%`;
    return part;
  }));
}

function renderAnswers() {
  write("predictions", `${number(status.counts.predictions)} in all`);
  if (!changed("answers", status.answers)) return;
  show("answers-none", !status.answers.length);
  $("answers").replaceChildren(...status.answers.toReversed().map(([time, answer, sure]) => {
    const fill = make("i");
    fill.style.width = `${100 * sure}%`;
    return make("tr", {}, make("td", {}, clock(time)), make("td", {}, String(answer)),
      make("td", {}, make("span", { class: "sure", "aria-hidden": "true" }, fill), percent(sure)));
  }));
}

function renderEvents() {
  if (!changed("events", events)) return;
  const tones = { drift: "amber", rollback: "red", stopped: "red", defect: "red", denied: "amber", paused: "amber" };
  show("events-none", !events.length);
  $("events").replaceChildren(...events.map(({ kind, time, message }) => {
    const item = make("li", {}, make("time", {}, clock(time)), make("span", { class: tones[kind] || "" }, plain(kind)));
    if (message) item.append(make("span", { class: "told" }, message));
    return item;
  }));
}

function renderWork() {
  const { counts } = status;
  list("work", [
    ["samples taken in", number(counts.accepted)], ["learned", number(counts.trained)],
    ["refused", number(counts.refused)], ["expired without label", number(counts.expired)],
    ["training steps", number(status.steps)],
    ["places taken in the store", `${number(status.to_learn + status.unlabelled + status.unsaved)} of ${number(status.most_samples)}`],
    ["commits to the store", number(status.commits)],
    ...(status.written_bytes === null ? [] : [["written to disk", bytes(status.written_bytes)]]),
  ]);
}

// -- the chart: two plots over one axis of time ---------------------------------------------------------------------

function measured() {  // all points, that of the window at hand at last
  const latest = status?.latest;
  return latest && !(points.at(-1)?.[1] >= latest[1]) ? [...points, latest] : points;
}

function renderChart() {
  const box = $("chart"), width = box.clientWidth, height = box.clientHeight;
  const points = measured();
  if (!width || !changed("chart", [points.length, points.at(-1), marks.length, width, height])) return;
  show("accepted-legend", points.some(point => point[4] !== null));
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": summary(points) });
  box.replaceChildren(svg);
  const left = 44, right = width - 10, foot = height - 22, middle = Math.round(.56 * foot);
  const first = points[0]?.[0] ?? Date.now() / 1000 - 60;
  const last = Math.max(first + 60, ...[points.at(-1), marks.at(-1)].map(one => one?.[0] ?? 0));
  const x = time => left + (time - first) / (last - first) * (right - left);
  for (const [time, text] of ticks(first, last, width))
    svg.append(draw("text", { x: x(time), y: height - 4, "text-anchor": "middle" }, text));
  const losses = points.map(point => point[2]), high = rounded(Math.max(...losses, .1));
  const rates = [1, ...points.flatMap(point => [point[3], point[4] ?? point[3]])];
  const least = Math.min(...rates), [low, steps] = SCALES.find(([low]) => low <= least);
  plot(svg, points, "Accuracy", "", [left, right, 22, middle], low, 1, percentTick, x, steps);
  plot(svg, points, "Loss", "loss", [left, right, middle + 34, foot], 0, high, value => number(value, high < 1 ? 2 : 1), x, 2);
  for (const [time, , kind, message] of marks) {
    if (!["drift", "rollback"].includes(kind) || time < first || time > last) continue;
    const at = x(time), glyph = kind === "drift" ? "M0 -5l5 5-5 5-5-5z" : "M-5 -4h10l-5 9z";
    svg.append(draw("path", { class: `stem ${kind}`, d: `M${at} 22V${foot}` }));
    const mark = draw("path", { class: kind, d: glyph, transform: `translate(${at} 15)` });
    mark.append(draw("title", {}, `${kind}, ${clock(time)}${message && `: ${message}`}`));
    svg.append(mark);
  }
  if (!points.length) svg.append(draw("text", { x: width / 2, y: middle / 2 + 16, "text-anchor": "middle", class: "alone" }, "No point yet: too few labelled samples"));
  $("points").replaceChildren(...points.slice(-20).toReversed().map(([time, sample, loss, right, accepted]) =>
    make("tr", {}, ...[clock(time), number(sample), percent(right), number(loss, 3), accepted === null ? "–" : percent(accepted)]
      .map(text => make("td", {}, text)))));
}

function plot(svg, points, title, kind, [left, right, top, bottom], low, high, label, x, steps) {
  const y = value => bottom - (Math.min(Math.max(value, low), high) - low) / (high - low) * (bottom - top);
  const column = kind ? 2 : 3;
  svg.append(draw("text", { class: "title", x: 0, y: top - 9 }, title));
  for (let step = 0; step <= steps; step++) {
    const value = low + (high - low) * step / steps, at = Math.round(y(value)) + .5;
    svg.append(draw("path", { class: "grid", d: `M${left} ${at}H${right}` }));
    svg.append(draw("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, label(value)));
  }
  if (!points.length) return;
  const path = at => points.filter(point => point[at] !== null).map((point, place) =>
    `${place ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[at]).toFixed(1)}`).join("");
  if (!kind) {
    svg.append(draw("path", { class: "area", d: `${path(3)}V${bottom}H${x(points[0][0])}z` }));
    svg.append(draw("path", { class: "line accepted", d: path(4) }));
  }
  svg.append(draw("path", { class: `line ${kind}`, d: path(column) }));
  const newest = points.at(-1);
  svg.append(draw("circle", { class: `dot ${kind}`, r: 4.5, cx: x(newest[0]), cy: y(newest[column]) }));
}

const SCALES = [[.8, 2], [.6, 2], [.5, 2], [.4, 3], [.2, 4], [0, 4]];  // lowest accuracy that is shown, lines above it
const percentTick = value => `${Math.round(100 * value)}\u202f%`;

function rounded(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 6, 8, 10].map(step => step * unit).find(step => step >= value * .999);
}

function ticks(first, last, width) {
  const most = Math.max(2, Math.floor(width / 110));
  const step = [10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800]
    .find(size => (last - first) / size <= most) ?? 2592000;
  const shift = 60 * new Date(1000 * first).getTimezoneOffset(), found = [];
  for (let time = Math.ceil((first - shift) / step) * step + shift; time <= last; time += step) {
    const date = new Date(1000 * time);
    found.push([time, step < 60 ? clock(time) : step < 86400 ? clock(time).slice(0, 5) :
      date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })]);
  }
  return found;
}

function summary(points) {
  if (!points.length) return "Accuracy and loss over time: nothing was learned yet.";
  const newest = points.at(-1), oldest = points[0], count = kind => marks.filter(mark => mark[2] === kind).length;
  return `Accuracy and loss from ${clock(oldest[0])} to ${clock(newest[0])}: accuracy from ${percent(oldest[3])} to ` +
    `${percent(newest[3])}, loss from ${number(oldest[2], 3)} to ${number(newest[2], 3)}; ` +
    `${count("drift")} drifts, ${count("rollback")} rollbacks.`;
}

new ResizeObserver(renderChart).observe($("chart"));
follow();
