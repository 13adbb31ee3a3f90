// Figures, warnings, strata, errors and runs.

function drawHeader() {
  put("output", DATA.output);
  const runs = DATA.runs_in_all === 1 ? `run ${DATA.runs[0].run_id}` : `the newest row of every image over ${count(DATA.runs_in_all)} runs`;
  const alphas = [...new Set(DATA.detectors.map((detector) => detector.alpha))];
  put("made", `${runs}; ${alphas.length ? `alpha ${alphas.join(", ")}; ` : ""}page made ${DATA.made_at.slice(0, 16).replace("T", " ")} UTC`);
  put("footer", `Made by mdmf report ${DATA.version}. A row says what was found when it was scored, not what is there now.`);
}

function drawFigures() {
  const tile = (kind, n, text) => make("li", { class: kind }, make("b", {}, count(n)), make("span", {}, text));
  put(
    "tiles",
    tile("images", DATA.images, `images, ${count(DATA.scored)} scored`),
    ...["likely_ai", "uncertain", "likely_real"].map((name) =>
      tile(name, DATA[name], DATA.scored ? `${words(name)}, ${percent(DATA[name] / DATA.scored)}` : words(name)),
    ),
    tile("failed", DATA.failed, DATA.images ? `failed, ${percent(DATA.failed / DATA.images)} of all` : "failed"),
  );
}

function warningText(stratum) {
  const [low, high] = stratum.interval;
  const times = stratum.rate / (stratum.expected / stratum.scored);
  const what = stratum.kind === "all" ? "All images" : `${stratum.kind} ${stratum.name}`;
  return `${what}: ${percent(stratum.rate)} of ${count(stratum.scored)} flagged (95 % interval ${percent(low)} to ${percent(high)}), ` +
    `${times.toFixed(0)} times alpha`;
}

function drawWarnings() {
  const warned = DATA.strata.filter((stratum) => stratum.warned);
  if (!warned.length) return;
  put(
    "warnings",
    make(
      "div",
      { class: "warning", role: "note" },
      make("p", {}, make("strong", {}, "Flagged far more often than alpha promises for real images:")),
      make("ul", {}, ...warned.map((stratum) => make("li", {}, warningText(stratum)))),
      make("p", {}, "Either many of these are generated, or the detector's p-values do not hold for such images. Look at some that " +
        "are known to be real before you believe these verdicts; mdmf calibrate gives p-values that fit an archive."),
    ),
  );
}

function interval(stratum) {
  const [low, high] = stratum.interval;
  const at = (rate) => `${100 * Math.sqrt(rate)}%`;
  const alpha = stratum.expected / stratum.scored;
  return make(
    "div",
    { class: "interval", "aria-hidden": "true" },
    make("i", { class: "span", style: { left: at(low), width: `${100 * (Math.sqrt(high) - Math.sqrt(low))}%` } }),
    make("i", { class: "alpha", style: { left: at(alpha) } }),
    make("i", { class: "point", style: { left: at(stratum.rate) } }),
  );
}

// Folders that all sources share are said once, in the caption.
function sharedFolder(names) {
  const parts = names.map((name) => name.split("/"));
  let depth = 0;
  while (names.length > 1 && parts.every((part) => depth < part.length - 1 && part[depth] === parts[0][depth])) depth += 1;
  return parts[0].slice(0, depth).join("/");
}

function stratumRow(stratum, shown, failures) {
  const judged = stratum.scored > 0;
  const [low, high] = stratum.interval;
  const name = make("button", { class: "plain", type: "button", title: "List these images",
    onclick: () => showOnly(stratum.kind, stratum.name) }, shown);
  const row = line(
    name,
    number(count(stratum.scored)),
    number(count(stratum.flagged)),
    number(judged ? percent(stratum.rate) : ""),
    number(judged ? `${percent(low)} to ${percent(high)}` : ""),
    make("td", { class: "wide" }, judged ? interval(stratum) : ""),
    ...(failures ? [number(stratum.failed ? count(stratum.failed) : "")] : []),
  );
  row.classList.toggle("warned", stratum.warned);
  return row;
}

function drawStrata() {
  put("strata-about", `How often images of each kind are called likely AI. The bar is the 95 % interval, the dotted line is alpha, ` +
    `the scale is that of square roots from 0 to 100 %. Where even the lower end is more than ${DATA.warn_times} times alpha, the kind is ` +
    `marked; below ${DATA.min_images} images it is not judged.` +
    (DATA.strata.some((stratum) => stratum.kind === "source" && stratum.name === "other folders")
      ? " Only the largest folders are judged by themselves: one of the other folders may be far beyond alpha, and no mark says so." : ""));
  const columns = [["kind", ""], ["scored", "n"], ["flagged", "n"], ["rate", "n"], ["95 % interval", "n"], ["0 to 100 %", "wide"]];
  const kinds = [...new Set(DATA.strata.map((stratum) => stratum.kind))].filter((kind) => kind !== "all");
  put(
    "strata-tables",
    ...kinds.map((kind) => {
      const strata = DATA.strata.filter((stratum) => stratum.kind === kind);
      const failures = strata.some((stratum) => stratum.failed);
      const shared = kind === "source" ? sharedFolder(strata.map((stratum) => stratum.name)) : "";
      const shown = (name) => (shared && name.startsWith(`${shared}/`) ? name.slice(shared.length + 1) : name);
      const drawn = table(`By ${kind}${shared ? `, under ${shared}/` : ""}`, failures ? [...columns, ["failed", "n"]] : columns,
        strata.map((stratum) => stratumRow(stratum, shown(stratum.name), failures)));
      return panel(`By ${kind}`, drawn);
    }),
  );
}

function drawErrors() {
  if (!DATA.errors.length) return put("errors-body", make("p", { class: "quiet" }, DATA.images ? "Every image was scored." : "There are no images."));
  const rows = DATA.errors.map((error) =>
    line(
      make("button", { class: "plain", type: "button", onclick: () => showOnly("error", error.code) }, words(error.code)),
      number(count(error.failed)),
      number(percent(error.failed / DATA.images)),
      cell(...error.examples.map((example) =>
        make("div", {}, make("code", {}, example.uri), make("span", { class: "quiet" }, ` ${example.message ?? ""}`)))),
    ),
  );
  put("errors-body", panel("Errors by code", table("", [["code", ""], ["images", "n"], ["of all", "n"], ["for example", ""]], rows)));
}

function drawRuns() {
  const n = (value) => number(value === null || value === undefined ? "" : count(value));
  const detectors = DATA.detectors.map((d) =>
    line(make("code", {}, d.detector_id), number(d.alpha), n(d.likely_ai ?? 0), n(d.uncertain ?? 0), n(d.likely_real ?? 0), n(d.failed ?? 0)));
  const runs = DATA.runs.map((run) =>
    line(run.run_id, cell(String(run.started_at).slice(0, 16).replace("T", " ")), n(run.inputs), n(run.scored), n(run.failed), n(run.skipped),
      cell(make("code", {}, run.options))));
  const declared = Object.entries(DATA.declared).map(([column, found]) =>
    line(words(column), cell(Object.entries(found).map(([value, images]) => `${value}: ${count(images)}`).join("; "))));
  const more = DATA.runs_in_all - DATA.runs.length;
  put(
    "runs-body",
    panel("Detectors", table("Detectors", [["detector", ""], ["alpha", "n"], ["likely AI", "n"], ["uncertain", "n"],
      ["likely real", "n"], ["failed", "n"]], detectors)),
    panel("Runs", table(more > 0 ? `Runs: the newest ${DATA.runs.length} of ${count(DATA.runs_in_all)}` : "Runs",
      [["run", ""], ["started (UTC)", ""], ["inputs", "n"], ["scored", "n"], ["failed", "n"], ["skipped", "n"], ["options", ""]], runs)),
    declared.length ? panel("Declared", table("What files say of themselves: anyone can write it, and no verdict depends on it",
      [["column", ""], ["images", ""]], declared)) : "",
  );
}
