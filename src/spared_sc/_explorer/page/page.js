// The page: what is chosen, its controls, and what follows from them.
"use strict";

(async () => {
  const { colours, maps } = SparedExplorer;
  const $ = (id) => document.getElementById(id);
  const VERDICTS = {
    complete: ["●", "Filled values and denoised values have been shown to be better than averages."],
    denoise: ["◐", "Denoised values have been shown to be better than averages; filled values have not."],
    undecided: ["○", "Neither filled nor denoised values have been shown to be better than averages."],
    "not audited": ["", "This gene was not audited."],
  };
  const LEAST_WIDTH = 250, MOST_WIDTH = 620; // of a map, in pixels
  const MOST_LISTED = 3000; // genes
  const BINS = 30;

  /** An element with properties and children; text is always text. */
  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  function fail(error) {
    $("note").textContent = error.message;
    throw error;
  }

  const { head: page } = await SparedExplorer.load("page").catch(fail);
  const choice = {
    gene: 0,
    maps: firstMaps(), // such as "panel-0", "difference-1", "column-3"
    sections: page.sections.map((_, i) => i).slice(0, 6),
    colours: colours.names[0],
    tool: "pan",
    limits: new Map(), // scale -> {by: "percentile" | "value", low, high}
    sort: 0,
    reversed: false,
  };
  const drawn = new Map(); // section -> SectionMaps
  let gene = { panels: [], detected: null, maps: new Map() };
  let columns = new Map(); // number -> values in all spots
  let listed = [];

  function firstMaps() {
    const of = (kind) => page.panels.findIndex((panel) => panel.kind === kind);
    const first = ["measured", "denoised", "predicted"].map(of);
    if (first[1] < 0) first[1] = of("given detection");
    const found = first.filter((i) => i >= 0).map((i) => `panel-${i}`);
    return found.length ? found : ["panel-0"];
  }

  // What a map shows ------------------------------------------------------------------------------------------------

  const partsOf = (id) => {
    const [kind, number] = id.split("-");
    return [kind, Number(number)];
  };

  /** Title, unit and colour scale of a map. */
  function describe(id) {
    const [kind, i] = partsOf(id);
    if (kind === "column") {
      const column = page.columns[i];
      return { title: column.name, unit: column.name, scale: id, categories: column.categories, colours: column.colours };
    }
    if (kind === "difference") {
      const [one, other] = page.differences[i].map((at) => page.panels[at]);
      const title = `${one.title} − ${other.title}`;
      const note = isEverywhere(one, other) ? "" : "not detected: no difference";
      return { title, note, unit: `difference, ${one.unit}`, scale: `difference ${one.scale}`, centred: true };
    }
    const panel = page.panels[i];
    const outlined = panel.kind !== "measured";
    return { ...panel, outlined, note: outlined ? "" : "not detected" };
  }

  /** The panel of a map whose model may know the section. */
  function knower(id) {
    const [kind, i] = partsOf(id);
    return kind === "difference" ? page.differences[i][0] : kind === "panel" ? i : -1;
  }

  /** Whether two panels can be compared in all spots: a measured zero is no level of expression to differ from. */
  const isEverywhere = (...compared) => compared.every(({ zeros }) => zeros);

  /** Values of a map in all spots, NaN where there are none; null where the gene has none at all. Kept with the gene. */
  function valuesOf(id) {
    if (!gene.maps.has(id)) gene.maps.set(id, compute(id));
    return gene.maps.get(id);
  }

  function compute(id) {
    const [kind, i] = partsOf(id);
    if (kind === "column") return columns.get(i);
    if (kind === "panel") {
      const values = gene.panels[i];
      if (!values || page.panels[i].kind !== "measured" || !gene.detected) return values;
      return values.map((value, spot) => (gene.detected[spot] ? value : NaN));
    }
    const [one, other] = page.differences[i];
    const [first, second] = [gene.panels[one], gene.panels[other]];
    if (!first || !second) return null;
    const everywhere = isEverywhere(page.panels[one], page.panels[other]) || !gene.detected;
    return first.map((value, spot) => (everywhere || gene.detected[spot] ? value - second[spot] : NaN));
  }

  /** Values that the limits of a scale follow: of detected spots where the others are filled in. */
  function countedOf(id) {
    const [kind, i] = partsOf(id);
    const values = valuesOf(id);
    if (!values) return [];
    const only = kind === "panel" && !page.panels[i].zeros && gene.detected?.some(Boolean);
    const kept = [];
    for (const { start, n } of choice.sections.map((at) => page.sections[at])) {
      for (let spot = start; spot < start + n; spot++) {
        if (!Number.isNaN(values[spot]) && (!only || gene.detected[spot])) kept.push(values[spot]);
      }
    }
    return kept;
  }

  // Colour scales ---------------------------------------------------------------------------------------------------

  const scales = new Map(); // scale -> {mapper, low, high, about, maps}

  function quantile(sorted, share) {
    const at = (sorted.length - 1) * share;
    const below = Math.floor(at);
    return sorted[below] + (at - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
  }

  const limitsOf = (scale) => choice.limits.get(scale) ?? { by: "percentile", low: 1, high: 99 };

  /** Ends of a scale. */
  function ends(scale, about, ids) {
    const limits = limitsOf(scale);
    if (limits.by === "value") return [limits.low, limits.high];
    let values = ids.flatMap(countedOf);
    if (about.centred) values = values.filter((value) => value !== 0).map(Math.abs);
    if (!values.length) return about.centred ? [-1, 1] : [0, 1];
    const sorted = Float32Array.from(values).sort();
    const high = quantile(sorted, limits.high / 100);
    const low = about.centred ? -high : quantile(sorted, limits.low / 100);
    return low < high ? [low, high] : [low - 0.5, low + 0.5];
  }

  /** Scales of the maps that are shown; mappers are kept, so that figures follow them. */
  function updateScales() {
    const byScale = grouped(choice.maps);
    for (const scale of [...scales.keys()]) if (!byScale.has(scale)) scales.delete(scale);
    for (const [scale, ids] of byScale) {
      const about = describe(ids[0]);
      if (about.categories) {
        const palette = about.categories.map((_, i) => about.colours?.[i] ?? colours.category(i));
        const mapper = scales.get(scale)?.mapper ?? maps.mapper(palette, -0.5, palette.length - 0.5, colours.PALE);
        scales.set(scale, { mapper, about, palette, maps: ids });
        continue;
      }
      const palette = colours.palette(about.centred ? "difference" : choice.colours);
      const [low, high] = ends(scale, about, ids);
      const mapper = scales.get(scale)?.mapper ?? maps.mapper(palette, low, high, colours.PALE);
      mapper.setv({ palette, low, high });
      scales.set(scale, { mapper, about, low, high, maps: ids });
    }
    showScales();
  }

  function grouped(ids) {
    const groups = new Map();
    for (const id of ids) groups.set(describe(id).scale, [...(groups.get(describe(id).scale) ?? []), id]);
    return groups;
  }

  const digits = (value) => (value === null || Number.isNaN(value) ? "–" : Number(value.toPrecision(3)).toString().replace("-", "−"));

  /** The colour bars with their limits. */
  function showScales() {
    const kept = new Map([...$("scales").children].map((card) => [card.dataset.scale, card]));
    const cards = [];
    for (const [scale, { about, low, high }] of scales) {
      if (about.categories) continue;
      const card = kept.get(scale) ?? scaleCard(scale, about);
      colours.draw(card.querySelector("canvas"), about.centred ? "difference" : choice.colours);
      const [left, right] = card.querySelectorAll(".ends span");
      left.textContent = digits(low);
      right.textContent = digits(high);
      const [by, lowest, highest] = card.querySelectorAll("select, input");
      const limits = limitsOf(scale);
      by.value = limits.by;
      for (const [input, value] of [[lowest, limits.low], [highest, limits.high]]) {
        if (document.activeElement !== input) input.value = Number(value.toPrecision(4));
      }
      lowest.hidden = about.centred && limits.by === "percentile";
      cards.push(card);
    }
    $("scales").replaceChildren(...cards);
  }

  function scaleCard(scale, about) {
    const by = make("select", { ariaLabel: `Limits of ${about.unit}` },
      make("option", { value: "percentile", textContent: "percentiles" }),
      make("option", { value: "value", textContent: "values" }));
    const low = make("input", { type: "number", step: "any", ariaLabel: `Lower limit of ${about.unit}` });
    const high = make("input", { type: "number", step: "any", ariaLabel: `Upper limit of ${about.unit}` });
    by.onchange = () => {
      const now = scales.get(scale);
      const limits = by.value === "value" ? { low: now.low, high: now.high } : { low: 1, high: 99 };
      choice.limits.set(scale, { by: by.value, ...limits });
      updateScales();
    };
    const typed = () => {
      const limits = { by: by.value, low: low.valueAsNumber, high: high.valueAsNumber };
      const fits = limits.low < limits.high && (limits.by === "value" || (limits.low >= 0 && limits.high <= 100));
      for (const input of [low, high]) input.setCustomValidity(fits ? "" : "The lower limit must lie below the upper one.");
      if (fits) {
        choice.limits.set(scale, limits);
        updateScales();
      } else {
        high.reportValidity();
      }
    };
    low.onchange = high.onchange = typed;
    const card = make("div", { className: "scale" }, make("h3", { textContent: about.unit }), make("canvas"),
      make("div", { className: "ends" }, make("span"), make("span")), make("div", { className: "row" }, by, low, high));
    card.dataset.scale = scale;
    return card;
  }

  // Maps ------------------------------------------------------------------------------------------------------------

  const look = () => ({
    image: $("image-opacity").valueAsNumber / 100,
    spots: $("spot-opacity").valueAsNumber / 100,
    size: $("spot-size").valueAsNumber / 100,
  });

  /** Give the figures the present values. */
  function fillMaps() {
    const outline = $("mark").checked && gene.detected;
    $("grid").classList.toggle("marked", Boolean(outline));
    for (const [i, section] of drawn) {
      const { start, n } = page.sections[i];
      const part = choice.maps.map((id) => valuesOf(id)?.subarray(start, start + n) ?? new Float32Array(n).fill(NaN));
      const mark = new Float32Array(n);
      if (outline) for (let spot = 0; spot < n; spot++) mark[spot] = gene.detected[start + spot] ? 0 : 1;
      section.show(part, mark);
      section.heading.textContent = page.sections[i].name;
      section.heading.append(make("span", { textContent: detectedIn(start, n) }));
    }
    document.querySelectorAll(".absent").forEach((note) => (note.hidden = Boolean(valuesOf(note.dataset.map))));
    updateScales();
    showSelection();
  }

  function detectedIn(start, n) {
    if (!gene.detected) return `${n.toLocaleString("en")} spots`;
    const found = gene.detected.subarray(start, start + n).reduce((sum, one) => sum + one, 0);
    return `detected in ${Math.round((100 * found) / n)} % of ${n.toLocaleString("en")} spots`;
  }

  let building = Promise.resolve();
  const build = () => (building = building.then(rebuild, rebuild).catch(fail));

  /** New figures: after a change of maps, sections or the width of the window. */
  async function rebuild() {
    for (const id of choice.maps) {
      const [kind, i] = partsOf(id);
      if (kind === "column" && !columns.has(i)) columns.set(i, await SparedExplorer.column(i));
    }
    maps.clear(drawn.values());
    for (const i of [...drawn.keys()]) if (!choice.sections.includes(i)) drawn.delete(i);
    const grid = $("grid");
    grid.replaceChildren();
    updateScales();
    const n = choice.maps.length;
    const width = Math.max(LEAST_WIDTH, Math.min(MOST_WIDTH, (grid.clientWidth - 14 * (n - 1)) / Math.max(n, 1) - 2));
    grid.style.gridTemplateColumns = `repeat(${n}, ${width + 2}px)`;
    for (const i of choice.sections) {
      if (!drawn.has(i)) drawn.set(i, await newSection(i));
      const section = drawn.get(i);
      section.heading = make("h3", { className: "section-name" });
      grid.append(section.heading);
      choice.maps.forEach((id, at) => {
        const plot = make("div", { className: "plot" });
        plot.addEventListener("keydown", (event) => moveByKeys(event, section));
        const about = describe(id);
        const absent = make("p", { className: "absent", textContent: "This gene has no such values.", hidden: true });
        absent.dataset.map = id;
        const below = make("div", {}, absent);
        if (about.categories) below.append(legend(about, i, id));
        else if (about.note) below.append(make("div", { className: "legend" }, chip(colours.PALE), about.note));
        else if (about.outlined) below.append(make("div", { className: "legend outlined" }, make("span", { className: "chip ring" }), "not detected"));
        const warning = page.sections[i].fitted[knower(id)];
        if (warning) below.append(make("p", { className: "legend warning", textContent: `▲ ${warning}` }));
        const heading = make("h3", { textContent: about.title, title: about.about ?? about.title });
        grid.append(make("div", { className: "map" }, heading, plot, below));
        plot.setAttribute("role", "img");
        plot.setAttribute("aria-label", `${about.title}, ${page.sections[i].name}`);
        section.add(at, scales.get(about.scale).mapper, Boolean(about.outlined), width, look(), plot);
      });
    }
    fillMaps();
    await maps.draw([...drawn.values()]);
    drawn.forEach((section) => section.setTool(choice.tool));
    document.body.dataset.state = "ready";
  }

  const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

  /** Arrow keys move the maps of a section, plus and minus zoom. */
  function moveByKeys(event, section) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in MOVES) section.move(...MOVES[event.key]);
    else if (event.key === "+" || event.key === "=") section.zoom(1.4);
    else if (event.key === "-") section.zoom(1 / 1.4);
    else return;
    event.preventDefault();
  }

  async function newSection(i) {
    const described = page.sections[i];
    const [spots, image] = await Promise.all([SparedExplorer.section(i), described.image ? SparedExplorer.image(i) : null]);
    return new maps.SectionMaps({ ...described, index: i }, spots, image, { select: showSelection, point });
  }

  const chip = (colour) => {
    const element = make("span", { className: "chip" });
    element.style.background = colour;
    return element;
  };

  /** Categories with their colours; each is a button that selects its spots. */
  function legend(about, i, id) {
    const { palette } = scales.get(about.scale);
    const { start, n } = page.sections[i];
    const values = columns.get(partsOf(id)[1]).subarray(start, start + n);
    const present = new Set(values);
    return make("div", { className: "legend" }, ...about.categories.flatMap((name, code) => {
      if (!present.has(code)) return [];
      const button = make("button", { type: "button", title: "Select these spots" }, chip(palette[code]), name);
      button.onclick = () => {
        drawn.get(i).selected = [...values.keys()].filter((spot) => values[spot] === code);
      };
      return [button];
    }));
  }

  /** The values of the spot under the pointer, in all maps. */
  function point(section, spot, x, y) {
    const tip = $("tip");
    tip.hidden = spot === undefined;
    if (tip.hidden) return;
    const at = section.section.start + spot;
    const lines = choice.maps.map((id) => {
      const about = describe(id);
      const value = valuesOf(id)?.[at] ?? NaN;
      const text = about.categories ? (about.categories[value] ?? "–") : digits(value);
      return make("div", {}, make("span", { textContent: about.title }), make("span", { textContent: text }));
    });
    if (gene.detected) {
      lines.push(make("div", {}, make("span", { textContent: "gene detected here" }), make("span", { textContent: gene.detected[at] ? "yes" : "no" })));
    }
    tip.replaceChildren(make("b", { textContent: section.spots.names[spot] }), section.section.name, ...lines);
    tip.style.left = `${Math.min(x + 16, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(y + 16, innerHeight - tip.offsetHeight - 8)}px`;
  }

  // Genes -----------------------------------------------------------------------------------------------------------

  async function chooseGene(i, { scroll = true } = {}) {
    choice.gene = i;
    markGene(scroll);
    showFacts();
    const loaded = await SparedExplorer.gene(i, page.n_spots).catch(fail);
    if (choice.gene !== i) return; // another one was chosen in the meantime
    gene = { ...loaded, maps: new Map() };
    fillMaps();
    document.body.dataset.gene = i;
  }

  function showFacts() {
    const name = page.genes[choice.gene];
    $("gene").textContent = name;
    document.title = `${name} · ${page.title}`;
    const verdict = page.verdicts?.[choice.gene];
    $("verdict").replaceChildren();
    if (verdict) $("verdict").append(make("b", { textContent: `Verdict: ${verdict}. ` }), VERDICTS[verdict]?.[1] ?? "");
    $("facts").replaceChildren(...page.numbers.map(({ label, values }) =>
      make("div", {}, make("dt", { textContent: label }), make("dd", { textContent: number(label, values[choice.gene]) }))));
  }

  const number = (label, value) =>
    value === null ? "–" : label === "missing share" ? `${Math.round(100 * value)} %` : value.toFixed(2).replace("-", "−");

  /** The genes that match the search, in order. */
  function listGenes() {
    const wanted = $("search").value.trim().toLowerCase();
    const by = page.numbers[choice.sort]?.values;
    listed = page.genes.map((_, i) => i).filter((i) => page.genes[i].toLowerCase().includes(wanted));
    if (by) {
      listed.sort((a, b) => (by[a] === null) - (by[b] === null) || by[b] - by[a]);
    } else {
      listed.sort((a, b) => page.genes[a].localeCompare(page.genes[b], "en", { numeric: true }));
    }
    if (choice.reversed) listed.reverse();
    const items = listed.slice(0, MOST_LISTED).map((i) => {
      const mark = page.verdicts ? [make("span", { className: "mark", textContent: VERDICTS[page.verdicts[i]]?.[0] ?? "", title: page.verdicts[i] })] : [];
      const value = by ? [make("span", { className: "value", textContent: number(page.numbers[choice.sort].label, by[i]) })] : [];
      const item = make("li", { id: `gene-${i}` }, ...mark, make("span", { className: "name", textContent: page.genes[i], title: page.genes[i] }), ...value);
      item.setAttribute("role", "option");
      return item;
    });
    $("genes").replaceChildren(...items);
    const n = listed.length.toLocaleString("en");
    $("matches").textContent = listed.length > MOST_LISTED ? `${n} genes, the first ${MOST_LISTED} are listed` : `${n} ${listed.length === 1 ? "gene" : "genes"}`;
    markGene(true);
  }

  function markGene(scroll) {
    const list = $("genes");
    list.querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
    const item = $(`gene-${choice.gene}`);
    item?.setAttribute("aria-selected", "true");
    if (item) list.setAttribute("aria-activedescendant", item.id);
    else list.removeAttribute("aria-activedescendant");
    if (!item || !scroll) return;
    const above = item.offsetTop - list.offsetTop;
    // Not scrollIntoView, which would move the place from where the Tab key goes on.
    if (above < list.scrollTop) list.scrollTop = above;
    else if (above + item.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = above + item.offsetHeight - list.clientHeight;
  }

  /** Move along the list. */
  function step(by) {
    if (!listed.length) return;
    const at = listed.indexOf(choice.gene);
    const to = at < 0 ? 0 : Math.max(0, Math.min(listed.length - 1, at + by));
    chooseGene(listed[to]);
  }

  const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };

  function onKeys(event) {
    if (!(event.key in STEPS) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === $("search") && (event.key === "Home" || event.key === "End")) return;
    event.preventDefault();
    step(STEPS[event.key]);
  }

  // Selected spots ---------------------------------------------------------------------------------------------------

  const selectedSpots = () => [...drawn.values()].flatMap((s) => Array.from(s.selected, (spot) => [s, spot]));

  function showSelection() {
    const spots = selectedSpots();
    $("selection").hidden = !spots.length;
    if (!spots.length) return;
    $("selection-heading").textContent = `${spots.length.toLocaleString("en")} selected spots`;
    const chosen = new Set(spots.map(([section, spot]) => section.section.start + spot));
    const shown = choice.sections.map((i) => page.sections[i]);
    const rest = shown.flatMap(({ start, n }) => Array.from({ length: n }, (_, i) => start + i)).filter((at) => !chosen.has(at));
    const rows = choice.maps.filter((id) => !describe(id).categories).map((id) => {
      const values = valuesOf(id);
      const cells = [[...chosen], rest].map((set) => make("td", { textContent: values ? digits(mean(set.map((at) => values[at]))) : "–" }));
      return make("tr", {}, make("th", { scope: "row", textContent: describe(id).title }), ...cells);
    });
    const names = ["mean", "selected", "others"].map((text) => make("th", { scope: "col", textContent: text }));
    $("means").replaceChildren(make("thead", {}, make("tr", {}, ...names)), make("tbody", {}, ...rows));
    showHistogram([...chosen], rest);
  }

  function mean(values) {
    const known = values.filter((value) => !Number.isNaN(value));
    return known.reduce((sum, value) => sum + value, 0) / known.length;
  }

  /** Shares of selected and other spots along the values of the first map that has numbers. */
  function showHistogram(chosen, rest) {
    const id = choice.maps.find((one) => !describe(one).categories && valuesOf(one));
    $("histogram").replaceChildren();
    $("histogram-caption").textContent = "";
    if (!id) return;
    const values = valuesOf(id);
    const sets = [rest, chosen].map((set) => set.map((at) => values[at]).filter((value) => !Number.isNaN(value)));
    const all = sets.flat();
    if (!all.length) return;
    const [low, high] = all.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
    const shares = sets.map((set) => {
      const bins = new Array(BINS).fill(0);
      for (const value of set) bins[Math.min(BINS - 1, Math.floor(((value - low) / (high - low || 1)) * BINS))] += 1 / set.length;
      return bins;
    });
    const highest = Math.max(...shares.flat());
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 360 120");
    svg.setAttribute("width", "360");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `Distribution of ${describe(id).title}`);
    shares.forEach((bins, which) => bins.forEach((share, i) => {
      const bar = document.createElementNS(svg.namespaceURI, "rect");
      const size = { x: 12 * i + (which ? 3 : 0), width: which ? 6 : 12, height: (110 * share) / highest };
      for (const [name, value] of Object.entries({ ...size, y: 115 - size.height })) bar.setAttribute(name, value);
      bar.setAttribute("fill", which ? "#0b5cad" : "#cdd4da");
      svg.append(bar);
    }));
    $("histogram").append(svg);
    $("histogram-caption").replaceChildren(`${describe(id).title}, ${digits(low)} to ${digits(high)}: `, chip("#0b5cad"), " selected ", chip("#cdd4da"), " others");
  }

  // Files -----------------------------------------------------------------------------------------------------------

  function download(blob, name) {
    const link = make("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;

  function saveCsv() {
    const titles = choice.maps.map((id) => (id.startsWith("column") ? "" : `${page.genes[choice.gene]}, `) + describe(id).title);
    const lines = selectedSpots().map(([section, spot]) => {
      const at = section.section.start + spot;
      const values = choice.maps.map((id) => {
        const value = valuesOf(id)?.[at] ?? NaN;
        return describe(id).categories ? quoted(describe(id).categories[value] ?? "") : Number.isNaN(value) ? "" : value;
      });
      return [quoted(section.spots.names[spot]), quoted(section.section.name), ...values].join(",");
    });
    const text = [["barcode", "library", ...titles].map(quoted).join(","), ...lines].join("\n");
    download(new Blob([text + "\n"], { type: "text/csv" }), "selected_spots.csv");
  }

  /** All maps as one picture, with titles and colour bars. */
  function savePicture() {
    const MARGIN = 16, LINE = 22, zoom = devicePixelRatio;
    const cells = [...drawn.values()].map((section) => ({ section, pictures: section.figures.map(({ view }) => view.export("png", true).canvas) }));
    const width = Math.max(...cells.map(({ pictures }) => pictures.reduce((sum, one) => sum + one.width / zoom + MARGIN, MARGIN)));
    const height = cells.reduce((sum, { pictures }) => sum + Math.max(...pictures.map((one) => one.height)) / zoom + 2 * LINE + MARGIN, 2 * LINE + 60);
    const canvas = make("canvas", { width: width * zoom, height: height * zoom });
    const pen = canvas.getContext("2d");
    pen.scale(zoom, zoom);
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    const write = (text, x, y, font = "13px sans-serif", most = undefined) => {
      pen.fillStyle = "#1c2126";
      pen.font = font;
      pen.fillText(text, x, y, most);
    };
    write(page.genes[choice.gene], MARGIN, 26, "italic 20px sans-serif", width - 2 * MARGIN);
    let y = 2 * LINE;
    for (const { section, pictures } of cells) {
      write(section.section.name, MARGIN, (y += LINE) - 6, "bold 13px sans-serif", width - 2 * MARGIN);
      let x = MARGIN;
      pictures.forEach((one, i) => {
        write(describe(choice.maps[i]).title, x, y + LINE - 8, undefined, one.width / zoom);
        pen.drawImage(one, x, y + LINE, one.width / zoom, one.height / zoom);
        x += one.width / zoom + MARGIN;
      });
      y += LINE + Math.max(...pictures.map((one) => one.height)) / zoom + MARGIN;
    }
    let x = MARGIN;
    for (const card of $("scales").children) {
      const { about, low, high } = scales.get(card.dataset.scale);
      pen.drawImage(card.querySelector("canvas"), x, y, 180, 10);
      write(`${digits(low)} to ${digits(high)}, ${about.unit}`, x, y + 26, "12px sans-serif", 240);
      x += 260;
    }
    canvas.toBlob((blob) => download(blob, "maps.png"));
  }

  // Controls --------------------------------------------------------------------------------------------------------

  function checkboxes(place, names, isChosen, onChange) {
    place.replaceChildren(...names.map(([value, text]) => {
      const box = make("input", { type: "checkbox", value, checked: isChosen(value) });
      box.onchange = () => onChange(value, box.checked);
      return make("label", { className: "check" }, box, make("span", { textContent: text }));
    }));
  }

  /** The chosen ones in their fixed order, with one added or removed. */
  const toggled = (all, chosen, value, on) => all.filter((one) => (one === value ? on : chosen.includes(one)));

  function setUp() {
    $("title").textContent = page.title;
    const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
    $("summary").textContent = `${count(page.sections.length, "section")}, ${count(page.n_spots, "spot")}, ${count(page.genes.length, "gene")}`;
    $("note").textContent = `Values are rounded to 1/254 of the range of a gene. Written by spared-sc ${page.version}.`;
    const ids = [...page.panels.map((_, i) => `panel-${i}`), ...page.differences.map((_, i) => `difference-${i}`)];
    const setMaps = (chosen) => {
      choice.maps = chosen;
      build();
    };
    const byColumn = () => choice.maps.filter((id) => id.startsWith("column"));
    checkboxes($("panels"), ids.map((id) => [id, describe(id).title]), (id) => choice.maps.includes(id),
      (id, on) => setMaps([...toggled(ids, choice.maps, id, on), ...byColumn()]));
    $("column").append(make("option", { value: "", textContent: "nothing else" }),
      ...page.columns.map(({ name }, i) => make("option", { value: `column-${i}`, textContent: name })));
    $("column").closest("label").hidden = !page.columns.length;
    $("column").onchange = () => setMaps([...choice.maps.filter((id) => !id.startsWith("column")), ...($("column").value ? [$("column").value] : [])]);
    $("sections-block").hidden = page.sections.length < 2;
    const all = page.sections.map((_, i) => i);
    checkboxes($("sections"), page.sections.map(({ name }, i) => [i, name]), (i) => choice.sections.includes(i), (i, on) => {
      choice.sections = toggled(all, choice.sections, i, on);
      build();
    });
    $("sort").append(...page.numbers.map(({ label }, i) => make("option", { value: i, textContent: `by ${label}` })),
      make("option", { value: page.numbers.length, textContent: "by name" }));
    $("colours").append(...colours.names.map((name) => make("option", { value: name, textContent: name })));
    listen();
  }

  function listen() {
    $("search").oninput = listGenes;
    $("search").onkeydown = $("genes").onkeydown = onKeys;
    $("genes").onclick = (event) => {
      const item = event.target.closest("li");
      if (item) chooseGene(Number(item.id.slice(5)), { scroll: false });
    };
    $("sort").onchange = () => {
      choice.sort = Number($("sort").value);
      listGenes();
    };
    $("order").onclick = () => {
      choice.reversed = !choice.reversed;
      $("order").textContent = choice.reversed ? "↑" : "↓";
      $("order").setAttribute("aria-pressed", choice.reversed);
      listGenes();
    };
    $("colours").onchange = () => {
      choice.colours = $("colours").value;
      updateScales();
    };
    for (const id of ["image-opacity", "spot-opacity", "spot-size"]) {
      $(id).oninput = () => drawn.forEach((section) => section.setLook(look()));
    }
    $("mark").onchange = fillMaps;
    $("tools").onchange = (event) => {
      choice.tool = event.target.value;
      drawn.forEach((section) => section.setTool(choice.tool));
    };
    $("zoom-in").onclick = () => drawn.forEach((section) => section.zoom(1.4));
    $("zoom-out").onclick = () => drawn.forEach((section) => section.zoom(1 / 1.4));
    $("reset").onclick = () => drawn.forEach((section) => section.setWindow(section.whole));
    $("picture").onclick = savePicture;
    $("csv").onclick = saveCsv;
    $("clear").onclick = () => drawn.forEach((section) => (section.selected = []));
    document.addEventListener("keydown", (event) => {
      if (event.target.closest("input, select, button") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "n" || event.key === "p") step(event.key === "n" ? 1 : -1);
    });
    let width = innerWidth, timer;
    addEventListener("resize", () => {
      if (innerWidth === width) return;
      width = innerWidth;
      clearTimeout(timer);
      timer = setTimeout(build, 200);
    });
  }

  setUp();
  listGenes();
  if (listed.length) choice.gene = listed[0];
  markGene(true);
  showFacts();
  gene = { ...(await SparedExplorer.gene(choice.gene, page.n_spots).catch(fail)), maps: new Map() };
  await build();
  document.body.dataset.gene = choice.gene;
})();
