"use strict";
// Unpacks Plotly, draws the figures in the page's own colours, and links the curves' steps.

const page = JSON.parse(document.getElementById("data").textContent);
const hiddenArms = new Set();

function create(tag, parent, properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  if (parent) parent.append(element);
  return element;
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

async function loadLibrary() {
  const packed = new Blob([bytesOf(document.getElementById("library").textContent)]);
  const text = await new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).text();
  create("script", document.head, { textContent: text });
}

function themed(layout) {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const [text, ground, line] = ["--text", "--ground", "--line"].map(colour);
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
  const found = {
    ...layout,
    font: { color: text, family: "system-ui, sans-serif", size: 12 },
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",  // a finger scrolls the page
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    hoverlabel: { bgcolor: ground, bordercolor: line, font: { color: text }, align: "left", namelength: -1 },
    modebar: { color: line, activecolor: text, bgcolor: "rgba(0,0,0,0)" },
    xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  };
  if (layout.xaxis.rangemode === "tozero") Object.assign(found.xaxis, { zerolinecolor: text, zerolinewidth: 2 });
  return found;
}

const drawn = [];

async function draw(box, { title, data, layout }) {
  const outer = create("div", box);
  create("h3", outer, { textContent: title });
  const chart = create("div", outer, { className: "chart" });
  if (layout.height) chart.style.height = `${layout.height}px`;
  const config = { responsive: true, doubleClick: "autosize", displaylogo: false, modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]] };
  await Plotly.newPlot(chart, data, themed(layout), config);
  drawn.push({ chart, layout });
  return chart;
}

function linkSteps(charts) {
  for (const chart of charts) {
    chart.on("plotly_relayout", (change) => {
      const whole = change["xaxis.autorange"];
      const from = change["xaxis.range[0]"];
      if (!whole && from === undefined) return;
      for (const { chart: other, layout } of drawn.filter((item) => charts.includes(item.chart) && item.chart !== chart)) {
        const first = layout.yaxis.range;
        const y = change["yaxis.autorange"] || !first ? { "yaxis.autorange": true } : { "yaxis.range": [...first] };
        const x = whole ? { "xaxis.autorange": true, ...y } : { "xaxis.range": [from, change["xaxis.range[1]"]] };
        Plotly.update(other, {}, x);  // which tells no "plotly_relayout", so nothing comes back
      }
    });
  }
}

function showArm(arm, shown) {
  hiddenArms[shown ? "delete" : "add"](arm);
  for (const { chart } of drawn) {
    const traces = chart.data.flatMap((trace, number) => (trace.meta.arm === arm ? [number] : []));
    if (traces.length) Plotly.restyle(chart, { visible: shown }, traces);
  }
  for (const panel of document.querySelectorAll(`.pair[data-arm="${arm}"]`)) panel.hidden = !shown;
}

function buildLegend() {
  const legend = document.getElementById("legend");
  page.arms.forEach(({ name, colour, dash }, arm) => {
    const label = create("label", legend, { className: "arm" });
    const box = create("input", label, { type: "checkbox", checked: true });
    box.addEventListener("change", () => showArm(arm, box.checked));
    const swatch = create("span", label, { className: "swatch" });
    swatch.style.borderTop = `4px ${dash === "solid" ? "solid" : dash === "dot" ? "dotted" : "dashed"} ${colour}`;
    create("span", label, { textContent: name });
  });
  legend.hidden = false;
}

async function buildCharts() {
  await loadLibrary();
  for (const [name, figures] of Object.entries(page.charts)) {
    const box = document.getElementById(name);
    const charts = [];
    for (const figure of box ? figures : []) charts.push(await draw(box, figure));
    if (name === "curves") linkSteps(charts);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const { chart, layout } of drawn) Plotly.react(chart, chart.data, themed(layout));
  });
  document.documentElement.dataset.ready = "true";
}

buildLegend();
buildCharts();
