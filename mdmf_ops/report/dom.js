"use strict";
// What the page's parts share. Texts from rows become text nodes and attribute values here, never markup.

const DATA = JSON.parse(document.getElementById("data").textContent);

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function put(id, ...children) {
  document.getElementById(id).replaceChildren(...children);
}

const count = (n) => n.toLocaleString("en");
// Of a million images a few hundred are some too: 0.03 %, not 0.0 %.
const percent = (x) => `${x > 0 && x < 0.00095 ? (100 * x).toPrecision(1) : (100 * x).toFixed(x > 0 && x < 0.0995 ? 1 : 0)} %`;
const pValue = (p) => (p === null ? "" : p < 0.001 ? p.toExponential(1) : p.toFixed(4));
const score = (x) => (x === null ? "" : x.toFixed(4));
const words = (name) => name.replaceAll("_", " ").replace("likely ai", "likely AI");
const verdict = (name) => make("span", { class: `verdict ${name}` }, words(name));

// A name that ends in a slash or has none is shown whole.
function split(uri) {
  const cut = uri.lastIndexOf("/", uri.length - 2);
  return cut < 0 ? ["", uri] : [uri.slice(0, cut + 1), uri.slice(cut + 1)];
}

function table(caption, columns, rows) {
  return make(
    "table",
    {},
    caption ? make("caption", {}, caption) : null,
    make("thead", {}, make("tr", {}, ...columns.map(([name, kind]) => make("th", { scope: "col", class: kind }, name)))),
    make("tbody", {}, ...rows),
  );
}

const cell = (...shown) => make("td", {}, ...shown);
const number = (text) => make("td", { class: "n" }, text);
const line = (head, ...cells) => make("tr", {}, make("th", { scope: "row" }, head), ...cells);

// A table that may be wider than the page.
const panel = (label, drawn) => make("div", { class: "panel", role: "region", "aria-label": label, tabindex: "0" }, drawn);

function facts(pairs) {
  return make("dl", {}, ...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

// As a shell reads it back.
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\"'\"'")}'`);
// An id is of bytes and detector: other runs have rows of it, at another alpha maybe.
const explainCommand = (rowId, runId) =>
  `mdmf explain --output ${quoted(DATA.output)} --run_id ${quoted(runId)} --row_id ${quoted(rowId)}`;
