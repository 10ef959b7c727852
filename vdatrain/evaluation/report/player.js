// Shows a clip frame by frame: RGB, truth, predictions and errors, and below each one row of it over time.

const FRAMES_PER_SECOND = 8;
const STRIPE = 4;  // as `vdaprep.shards.pictures.depth_colors` hatches
const HATCH = [104, 168];

// Colours are words as a canvas has them: red in the lowest byte, opaque.
const word = (red, green, blue) => (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
const wordsOf = (bytes) => Uint32Array.from({ length: bytes.length / 3 }, (_, i) => word(...bytes.slice(3 * i, 3 * i + 3)));
const SKY = word(...page.colours.sky);
const HATCH_WORDS = HATCH.map((grey) => word(grey, grey, grey));

function startPlayer() {
  const player = document.getElementById("player");
  const [choice, play, frameSlider, rowSlider] = ["clip", "play", "frame", "row"].map((id) => document.getElementById(id));
  const frameNumber = document.getElementById("frame-number");
  const rowNumber = document.getElementById("row-number");
  const panels = document.getElementById("panels");
  const measure = document.getElementById("measure");
  const maps = { disparity: wordsOf(bytesOf(page.colours.disparity)), error: wordsOf(bytesOf(page.colours.error)) };
  const state = { clip: null, frame: 0, row: 0, measure: "error", panels: [], timer: 0 };

  // ------------------------------------------------------------------------------------------------------ decoding

  async function pixelsOf(url) {
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = create("canvas", null, { width: image.naturalWidth, height: image.naturalHeight });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height).data;
  }

  // A source gives the colour of a pixel by its number in the image of all frames.
  function copied(data) {
    const words = new Uint32Array(data.buffer);
    return (from) => words[from];
  }

  const mapped = (level, map) => (from) => map[level(from)];

  // Hatches what is unknown, in the frame before, too, if one is given.
  function hatched(source, truth, width, frameBefore = 0) {
    const known = (from) => from < 0 || truth[4 * from + 1] > 127;
    return (from) => {
      if (known(from) && known(from - frameBefore)) return source(from);
      return HATCH_WORDS[Math.floor(((from % width) + Math.floor(from / width)) / STRIPE) % 2];
    };
  }

  function trueColours(truth) {
    const level = mapped((from) => truth[4 * from], maps.disparity);
    return (from) => (truth[4 * from] === 0 ? SKY : level(from));
  }

  // The error, or how much it changed since the frame before, which a movement of both does not.
  function errorColours(truth, prediction, clip) {
    const frameBefore = clip.pitch * clip.width;
    const error = (from) => prediction[4 * from] - truth[4 * from];
    const level = (value, range) => Math.min(255, Math.round(Math.abs(value) / range));
    const changed = (from) => (from < frameBefore ? 0 : error(from) - error(from - frameBefore));
    const sources = {
      error: hatched(mapped((from) => level(error(from), page.colours.error_range), maps.error), truth, clip.width),
      flicker: hatched(
        mapped((from) => level(changed(from), page.colours.flicker_range), maps.error), truth, clip.width, frameBefore),
    };
    return (from) => sources[state.measure](from);
  }

  async function pairsOf(clip) {
    const [rgb, truth, ...predictions] = await Promise.all(
      [clip.rgb, clip.truth, ...clip.predictions.map(({ image }) => image)].map(pixelsOf));
    const given = [
      { title: "frame", source: copied(rgb) },
      { title: "truth", source: hatched(trueColours(truth), truth, clip.width) },
    ];
    const predicted = clip.predictions.map(({ arm }, number) => {
      const levels = predictions[number];
      const { name } = page.arms[arm];
      const views = [
        { title: name, source: mapped((from) => levels[4 * from], maps.disparity) },
        { title: `${name}: error`, source: errorColours(truth, levels, clip), measured: name },
      ];
      return { arm, views };
    });
    return [{ views: given }, ...predicted];
  }

  // ------------------------------------------------------------------------------------------------------- drawing

  function paint(canvas, source, indexOf) {
    const context = canvas.getContext("2d");
    const { width, height } = canvas;
    const image = context.createImageData(width, height);
    const words = new Uint32Array(image.data.buffer);
    for (let y = 0, to = 0; y < height; y++) {
      for (let from = indexOf(y), end = from + width; from < end; from++) words[to++] = source(from);
    }
    context.putImageData(image, 0, 0);
  }

  function drawFrame() {
    const { clip, frame } = state;
    for (const { picture, source, frameLine } of state.panels) {
      paint(picture, source, (y) => (frame * clip.pitch + y) * clip.width);
      frameLine.style.top = `${(100 * (frame + 0.5)) / clip.frames}%`;
    }
    frameSlider.value = frame;
    frameNumber.value = `${frame + 1} of ${clip.frames}`;
  }

  function drawRow() {
    const { clip, row } = state;
    for (const { slice, source, rowLine } of state.panels) {
      paint(slice, source, (t) => (t * clip.pitch + row) * clip.width);
      rowLine.style.top = `${(100 * (row + 0.5)) / clip.height}%`;
    }
    rowSlider.value = row;
    rowNumber.value = `${row + 1} of ${clip.height}`;
  }

  function showFrame(frame) {
    if (!state.clip) return;
    state.frame = (frame + state.clip.frames) % state.clip.frames;
    drawFrame();
  }

  function showRow(row) {
    if (!state.clip) return;
    state.row = Math.max(0, Math.min(state.clip.height - 1, row));
    drawRow();
  }

  function showMeasure() {
    if (!state.clip) return;
    state.measure = measure.value;
    for (const { caption, measured } of state.panels) {
      if (measured !== undefined) caption.textContent = `${measured}: ${state.measure}`;
    }
    drawScale(state.clip);
    drawFrame();
    drawRow();
  }

  function draggable(view, count, show) {
    const choose = (event) => {
      const box = view.getBoundingClientRect();
      const part = Math.max(0, Math.min(1 - 1e-9, (event.clientY - box.top) / box.height));
      show(Math.floor(part * count()));
    };
    view.addEventListener("click", choose);
    view.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "touch" && event.buttons === 1) choose(event);  // a finger scrolls the page
    });
  }

  function pairOf({ arm, views }, clip) {
    const pair = create("div", panels, { className: "pair", hidden: hiddenArms.has(arm) });
    if (arm !== undefined) Object.assign(pair.dataset, { arm });
    return views.map((view) => panelOf(pair, view, clip));
  }

  function panelOf(pair, { title, source, measured }, clip) {
    const figure = create("figure", pair, { className: "panel" });
    const caption = create("figcaption", figure, { textContent: title });
    const upper = create("div", figure, { className: "view" });
    const lower = create("div", figure, { className: "view slice" });
    const picture = create("canvas", upper, { width: clip.width, height: clip.height });
    const slice = create("canvas", lower, { width: clip.width, height: clip.frames });
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", title);
    slice.setAttribute("role", "img");
    slice.setAttribute("aria-label", `${title}: one row over time`);
    draggable(upper, () => clip.height, showRow);
    draggable(lower, () => clip.frames, (frame) => showFrame(frame));
    return { caption, measured, picture, slice, source, rowLine: create("i", upper), frameLine: create("i", lower) };
  }

  function drawScale(clip) {
    const scale = document.getElementById("scale");
    scale.replaceChildren();
    const metres = (disparity) => (disparity > 0 ? `${Number((1 / disparity).toPrecision(3))} m` : "far");
    const ends = clip.range ? clip.range.map(metres) : ["far", "near"];
    const share = Math.round(100 * page.colours[`${state.measure}_range`]);
    const scales = [
      [ends[0], maps.disparity, ends[1]],
      [`${state.measure} 0`, maps.error, `${share} % of the clip's disparities`],
    ];
    for (const [left, map, right] of scales) {
      const item = create("span", scale);
      create("span", item, { textContent: left });
      const bar = create("canvas", item, { width: 256, height: 1 });
      paint(bar, mapped((x) => x, map), () => 0);
      create("span", item, { textContent: right });
    }
    for (const [name, source] of [
      ["sky", () => SKY],
      ["unknown", hatched(null, new Uint8Array(4 * 24 * 12), 24)],
    ]) {
      const item = create("span", scale);
      const swatch = create("canvas", item, { width: 24, height: 12 });
      Object.assign(swatch.style, { width: "24px", height: "12px" });
      paint(swatch, source, (y) => 24 * y);
      create("span", item, { textContent: name });
    }
  }

  async function load(number) {
    const clip = page.clips[number];
    const pairs = await pairsOf(clip);
    if (Number(choice.value) !== number) return;  // another was chosen meanwhile
    panels.replaceChildren();
    Object.assign(state, { clip, frame: 0, row: Math.floor(clip.height / 2) });
    state.panels = pairs.flatMap((pair) => pairOf(pair, clip));
    frameSlider.max = clip.frames - 1;
    rowSlider.max = clip.height - 1;
    showMeasure();
    player.dataset.clip = number;
  }

  // ------------------------------------------------------------------------------------------------------ controls

  function toggle() {
    if (state.timer) clearInterval(state.timer);
    state.timer = state.timer ? 0 : setInterval(() => showFrame(state.frame + 1), 1000 / FRAMES_PER_SECOND);
    play.textContent = state.timer ? "Pause" : "Play";
  }

  function isInView() {
    const { top, bottom } = player.getBoundingClientRect();
    return top < 0.7 * innerHeight && bottom > 0.3 * innerHeight;
  }

  function onKey(event) {
    const inside = player.contains(event.target);
    const free = inside || event.target === document.body;
    const own = event.target.closest("input, select, button, a");  // has keys of its own
    if (!free || !isInView() || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && own?.tagName !== "BUTTON" && own?.tagName !== "SELECT") toggle();
    else if (own) return;
    else if (event.key === "ArrowRight") showFrame(state.frame + 1);
    else if (event.key === "ArrowLeft") showFrame(state.frame - 1);
    else if (event.key === "ArrowDown" && inside) showRow(state.row + 1);
    else if (event.key === "ArrowUp" && inside) showRow(state.row - 1);
    else return;
    event.preventDefault();
  }

  page.clips.forEach(({ title }, number) => create("option", choice, { value: number, textContent: title }));
  choice.addEventListener("change", () => load(Number(choice.value)));
  measure.addEventListener("change", showMeasure);
  play.addEventListener("click", toggle);
  frameSlider.addEventListener("input", () => showFrame(Number(frameSlider.value)));
  rowSlider.addEventListener("input", () => showRow(Number(rowSlider.value)));
  document.addEventListener("keydown", onKey);
  player.hidden = false;
  return load(0);
}

if (page.clips.length) startPlayer();
