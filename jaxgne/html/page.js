"use strict";
// What Vega does not have: one hour and one place for all charts, and tables to sort and to save.
const json = (id) => JSON.parse(document.getElementById(id).textContent);
const data = json("data"), drawn = [], byId = (id) => document.getElementById(id);
const state = { hour: data.hour ?? 0, place: -1, line: -1, who: -1 };

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function signals(view) {
  for (const name in state) view.signal(name, state[name]);
  return view;
}

function show() {
  for (const view of drawn) signals(view).runAsync();
  const when = data.labels ? data.labels[state.hour] : "";
  const picked = byId("pick") ? byId("pick").selectedOptions[0].textContent : "";
  const line = (data.rows.lines ?? []).filter((row) => (state.line < 0 ? row.place === state.place : row.line === state.line));
  const own = (row) => (state.who === -2 ? row.place === state.place : row.who === state.who);
  const here = (rows) => picked + ((data.rows[rows] ?? []).some(own) ? "" : ": none");
  const words = { map: when, profile: when, volts: place(state.place), prices: place(state.place),
    loads: line.length === 1 ? line[0].name : line.length ? "all to " + place(state.place) : "", dispatch: here("power"), storage: here("stores") };
  for (const span of document.querySelectorAll(".now")) span.textContent = words[span.dataset.chart] ?? "";
  if (byId("when")) byId("when").textContent = when;
  if (byId("hour")) byId("hour").setAttribute("aria-valuetext", when);
}

const place = (index) => data.rows.places?.[index]?.name ?? "";

function setHour(step) {
  state.hour = Number(step);
  byId("hour").value = step;
  show();
}

// A key is "all", or b, l or p and a number: a bus, a line, a prosumer.
function pick(key) {
  const at = Number(key.slice(1)), lines = data.rows.lines ?? [];
  state.line = -1;
  if (key === "all") Object.assign(state, { place: data.pick ?? -1, who: -1 });
  if (key[0] === "b") Object.assign(state, { place: at, who: -2 });
  if (key[0] === "p") Object.assign(state, { place: data.people[at].place, who: at });
  if (key[0] === "l") Object.assign(state, { place: lines[at].place, who: -2, line: at });
  byId("pick").value = key;
  show();
}

function clicked(event, item) {
  const row = item?.datum;
  if (!row || !byId("pick")) return;
  if (row.k !== undefined) setHour(Math.round(row.k));
  if (row.line !== undefined) pick("l" + row.line);
  else if (row.place >= 0 && row.who === undefined) pick("b" + row.place);
}

// A chart fills with its rows, and from then on follows the hour and what is picked.
async function draw(key, { vega, canvas }) {
  for (const source of vega.data) {
    const rows = data.rows[source.name];
    if (rows) source.values = rows.map((row) => ({ ...row }));
  }
  for (const signal of vega.signals) {
    if (signal.name === "labels") signal.value = data.labels;
    else if (signal.name in state) signal.value = state[signal.name];
  }
  if (innerWidth < 760) {
    vega.config.legend.layout = { bottom: { direction: "vertical", anchor: "start" } };
    for (const legend of vega.legends ?? []) if (legend.columns) legend.columns = innerWidth < 480 ? 1 : 2;
  }
  // Level 1 is errors: that a chart is empty, as where a bus has nobody, is none.
  const options = { mode: "vega", actions: false, logLevel: 1, renderer: canvas ? "canvas" : "svg" };
  const { view } = await vegaEmbed("#chart-" + key, vega, options);
  view.addEventListener("click", clicked);
  drawn.push(view);
  await signals(view).runAsync(); // what was picked meanwhile
}

// The first chart is what is seen first; the browser may paint before the others are drawn.
async function drawAll() {
  for (const [key, chart] of Object.entries(json("charts"))) {
    await draw(key, chart);
    document.body.dataset.first ??= String(Math.round(performance.now()));
    await new Promise((then) => setTimeout(then));
  }
  document.body.dataset.ready = String(Math.round(performance.now()));
}

function shown(value, head) {
  if (value === null || value === undefined) return "–";
  if (head.digits === undefined) return String(value.text ?? value);
  if (head.significant) return value.toLocaleString("en-US", { maximumSignificantDigits: head.digits });
  return value.toLocaleString("en-US", { minimumFractionDigits: head.digits, maximumFractionDigits: head.digits });
}

function compare(one, other) {
  const [a, b] = [one?.step ?? one, other?.step ?? other];
  if (a === b) return 0;
  if (a === null || b === null) return a === null ? 1 : -1;
  return typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

function table(box) {
  const { heads, rows } = data.tables[box.dataset.table], name = box.dataset.name;
  const state = { by: -1, down: false, most: 100, find: "" };
  const head = make("tr"), body = make("tbody"), count = make("span", { role: "status" });
  heads.forEach((column, k) => {
    const button = make("button", { type: "button" }, column.name);
    if (column.unit) button.append(make("small", {}, column.unit));
    const numeric = column.digits !== undefined;
    head.append(make("th", { scope: "col", className: numeric ? "" : "text" }, button));
    button.onclick = () => {
      Object.assign(state, { down: state.by === k ? !state.down : numeric, by: k });
      fill();
    };
  });
  const kept = () => {
    const wanted = state.find.toLowerCase();
    const found = rows.filter((row) => !wanted || row.some((cell) => String(cell?.text ?? cell).toLowerCase().includes(wanted)));
    return state.by < 0 ? found : found.sort((a, b) => (state.down ? -1 : 1) * compare(a[state.by], b[state.by]));
  };
  function fill() {
    const found = kept();
    [...head.children].forEach((th, k) => {
      if (k === state.by) th.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    });
    body.replaceChildren(...found.slice(0, state.most).map((row) => make("tr", {}, ...row.map((value, k) => {
      const cell = make("td", { className: heads[k].digits === undefined ? "text" : "" });
      if (value?.step !== undefined) cell.append(make("button", { type: "button", title: "show this hour", onclick: () => setHour(value.step) }, value.text));
      else cell.append(shown(value, heads[k]));
      return cell;
    }))));
    more.hidden = found.length <= state.most;
    count.textContent = `${Math.min(found.length, state.most)} of ${rows.length} rows`;
  }
  const more = make("button", { type: "button", onclick: () => { state.most += 1000; fill(); } }, "Show more");
  const search = make("input", { type: "search", oninput: () => { state.find = search.value; fill(); } });
  const save = make("button", { type: "button", onclick: () => saved(name, heads, kept()) }, "Save as CSV");
  const tools = make("div", { className: "tools" }, count, save);
  if (rows.length > 20) tools.prepend(make("label", {}, "Find ", search));
  const scroll = make("div", { className: "scroll", tabIndex: 0 }, make("table", {}, make("thead", {}, head), body));
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", name);
  box.append(tools, scroll, more);
  fill();
}

function quoted(value) {
  if (typeof value === "number") return String(value);
  const text = String(value?.text ?? value ?? "");
  const safe = /^[=+\-@\t\r]/.test(text) ? "'" + text : text; // or a spreadsheet takes it for a formula
  return /[",\n\r]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
}

function csv(heads, rows) {
  const first = heads.map((head) => (head.unit ? `${head.name} (${head.unit})` : head.name));
  return [first, ...rows].map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";
}

function saved(name, heads, rows) {
  const url = URL.createObjectURL(new Blob([csv(heads, rows)], { type: "text/csv" }));
  make("a", { href: url, download: name.replaceAll(" ", "-") + ".csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function options(words, key, names) {
  const group = make("optgroup", { label: words });
  names.forEach(([name, index]) => group.append(make("option", { value: key + index }, name)));
  return group;
}

function controls() {
  if (!byId("pick")) return;
  const { places = [], lines = [] } = data.rows;
  byId("hour").value = state.hour;
  byId("hour").oninput = (event) => setHour(event.target.value);
  byId("pick").append(make("option", { value: "all" }, "Everybody"));
  if (places.length) byId("pick").append(options("Buses", "b", places.map((row) => [(data.networked ? "bus " : "") + row.name, row.place])));
  if (lines.length) byId("pick").append(options("Lines", "l", lines.map((row) => ["line " + row.name + (row.phase ? " " + row.phase : ""), row.line])));
  if (data.people.length) byId("pick").append(options("Prosumers", "p", data.people.map((row) => ["prosumer " + row.name, row.who])));
  byId("pick").onchange = (event) => pick(event.target.value);
  pick("all");
}

controls();
show();
document.querySelectorAll("[data-table]").forEach(table);
drawAll();
