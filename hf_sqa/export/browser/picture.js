// The waveform over its local quality, as hf_sqa/pipelines/quality_plot.py draws it.
const SVG = "http://www.w3.org/2000/svg";
const SILENT = "#d9d9d9", WORST = "#b2182b", INK_OF_WORST = "#8c1020", MOST_POINTS = 600;
const RIGHT = 12, WAVE = { top: 26, height: 84 }, CURVE = { top: 128, height: 190 }, HEIGHT = 348;

// A time in a recording for people: 12.5 s, 3:07 or 1:02:03.
export function clock(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds), hours = Math.floor(whole / 3600), two = (number) => String(number).padStart(2, "0");
  const minutes = Math.floor((whole % 3600) / 60);
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

// Lowest and highest sample of every column.
export function envelopeOf(samples, rate, columns) {
  const size = Math.max(1, Math.ceil(samples.length / columns)), envelope = [];
  for (let start = 0; start < samples.length; start += size) {
    let low = Infinity, high = -Infinity;
    for (let index = start; index < Math.min(start + size, samples.length); index++) {
      low = Math.min(low, samples[index]);
      high = Math.max(high, samples[index]);
    }
    envelope.push({ at: start / rate, low, high });
  }
  return envelope;
}

// Colour of a score by the five categories; grey where there is none.
export function colourOf(value, categories) {
  if (value === undefined) return SILENT;
  return [...categories].reverse().find(([at]) => value >= at - 0.5 || at === 1)[2];
}

// Replaces what is in `host` by the picture of `from` to `to` seconds.
export function draw(host, { from, to, envelope, points, name, overall, worst, faults, categories, method, label }) {
  const width = Math.max(280, host.clientWidth || 800), isNarrow = width < 480, edge = isNarrow ? 20 : 92, plot = width - edge - RIGHT;
  const x = (seconds) => edge + (plot * (seconds - from)) / (to - from);
  const y = (score) => CURVE.top + (CURVE.height * (5 - Math.min(5, Math.max(1, score)))) / 4;
  const picture = made("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label });
  const spoken = points.filter(({ scores, end }) => scores && end > from).map((point) => ({ ...point, value: point.scores[name] }));

  for (const [at, word] of categories) {
    picture.append(line(edge, y(at), width - RIGHT, y(at), { stroke: "#dddddd" }));
    picture.append(text(edge - 8, y(at) + 4, isNarrow ? at : `${at} ${word}`, { "text-anchor": "end" })); // the key has the words
  }
  if (!isNarrow) picture.append(text(edge - 8, WAVE.top + WAVE.height / 2 + 4, "waveform", { "text-anchor": "end" }));
  const isShown = ({ start, end }) => end > from && start < to, left = ({ start }) => x(Math.max(start, from));
  const marked = (faults.length ? faults : [worst]).filter((stretch) => stretch && isShown(stretch));
  for (const stretch of marked) {
    const width = Math.max(2, x(stretch.end) - left(stretch));
    const shade = { x: left(stretch), width, fill: WORST, "fill-opacity": faults.length ? 0.13 : 0.08 };
    for (const { top, height } of [WAVE, CURVE]) picture.append(made("rect", { y: top, height, ...shade }));
    const words = stretch.kind ?? "";
    if (words && words.length * 7 < width) {
      picture.append(text(left(stretch) + width / 2, CURVE.top + CURVE.height - 6, words, { "text-anchor": "middle", fill: INK_OF_WORST }));
    }
  }
  if (worst && isShown(worst)) {
    const middle = (left(worst) + x(worst.end)) / 2, side = middle < width * 0.3 ? "start" : middle > width * 0.7 ? "end" : "middle";
    const at = { start: left(worst), middle, end: x(worst.end) }[side];
    const words = `worst: ${worst.value.toFixed(1)} from ${clock(worst.start)} to ${clock(worst.end)}`;
    picture.append(text(at, 16, words, { "text-anchor": side, fill: INK_OF_WORST, "font-weight": 600 }));
    picture.append(made("path", { d: `M${(middle - 5).toFixed(1)} ${CURVE.top - 10}h10l-5 9z`, fill: INK_OF_WORST, class: "worst" }));
  }
  picture.append(...waves(envelope, spoken, x, categories));
  for (const curve of curvesOf(spoken)) {
    const path = (key) => curve.map((point) => `${x(point.at).toFixed(1)} ${y(point[key]).toFixed(1)}`);
    picture.append(made("path", { d: `M${path("high").join("L")}L${path("low").reverse().join("L")}Z`, fill: "#cccccc" }));
    picture.append(made("path", { d: `M${path("mean").join("L")}`, fill: "none", stroke: "#222222", "stroke-width": 1.5 }));
    for (const { at, mean } of spoken.length < 200 ? curve : []) {
      picture.append(made("circle", { cx: x(at).toFixed(1), cy: y(mean).toFixed(1), r: 3.5, fill: colourOf(mean, categories) }));
    }
  }
  if (overall !== undefined) picture.append(line(edge, y(overall), width - RIGHT, y(overall), { stroke: "#222222", "stroke-dasharray": "5 4" }));
  picture.append(...times(from, to, x, edge + plot));
  host.replaceChildren(picture, key(categories, faults.length ? "fault" : "worst stretch", overall, method));
}

// A bar for every column of the waveform, those of one colour as one path.
function waves(envelope, spoken, x, categories) {
  const peak = envelope.reduce((most, { low, high }) => Math.max(most, -low, high), 1e-3);
  const y = (sample) => (WAVE.top + WAVE.height / 2 - (0.48 * WAVE.height * sample) / peak).toFixed(1);
  const byColour = new Map();
  let index = 0;
  for (const { at, low, high } of envelope) {
    while (index < spoken.length && spoken[index].end <= at) index++;
    const here = spoken[index], colour = colourOf(here && here.start <= at ? here.value : undefined, categories);
    byColour.set(colour, `${byColour.get(colour) ?? ""}M${x(at).toFixed(1)} ${y(high)}V${(+y(low) + 0.5).toFixed(1)}`);
  }
  const wide = envelope.length > 1 ? Math.max(1, x(envelope[1].at) - x(envelope[0].at)) : 1;
  return [...byColour].map(([stroke, d]) => made("path", { d, stroke, "stroke-width": wide.toFixed(2), fill: "none" }));
}

// Points as curves between silences; of many, each is the mean of several, with their range.
function curvesOf(points) {
  const size = Math.max(1, Math.ceil(points.length / MOST_POINTS)), runs = [];
  points.forEach((point, index) => {
    const before = points[index - 1];
    // In a long recording a pause of a few points would only fray the curve.
    if (before && point.start - before.end < 0.01 + (size - 1) * (before.end - before.start)) runs.at(-1).push(point);
    else runs.push([point]);
  });
  return runs.map((run) => {
    const curve = [];
    for (let first = 0; first < run.length; first += size) {
      const part = run.slice(first, first + size), values = part.map(({ value }) => value);
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      curve.push({ at: (part[0].start + part.at(-1).end) / 2, mean, low: Math.min(...values), high: Math.max(...values) });
    }
    return curve;
  });
}

function times(from, to, x, right) {
  const most = Math.max(2, Math.floor((right - x(from)) / 80));
  const steps = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];
  const step = steps.find((step) => (to - from) / step <= most) ?? 86400, ticks = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
    const words = to < 60 ? `${+at.toFixed(1)} s` : at < 60 ? `0:${String(Math.round(at)).padStart(2, "0")}` : clock(at);
    ticks.push(line(x(at), CURVE.top + CURVE.height, x(at), CURVE.top + CURVE.height + 4, { stroke: "#888888" }));
    ticks.push(text(x(at), CURVE.top + CURVE.height + 18, words, { "text-anchor": x(at) > right - 20 ? "end" : "middle" }));
  }
  return ticks;
}

// Colours, and how the curve was made.
function key(categories, shaded, overall, method) {
  const caption = document.createElement("figcaption");
  const entries = [...categories.map(([at, word, colour]) => [colour, `${at} ${word}`]), [SILENT, "nobody speaks"], ["#f3d5d9", shaded]];
  for (const [colour, words] of entries) {
    const box = document.createElement("i"), entry = document.createElement("span");
    box.style.background = colour;
    entry.append(box, words);
    caption.append(entry, " ");
  }
  const small = document.createElement("small");
  small.textContent = `${overall === undefined ? "" : "Dashed: the score. "}Local quality: ${method}.`;
  caption.append(small);
  return caption;
}

function made(kind, attributes) {
  const element = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const line = (x1, y1, x2, y2, attributes) => made("line", { x1, y1, x2, y2, ...attributes });

function text(x, y, words, attributes) {
  const element = made("text", { x, y, "font-size": 12, fill: "#444444", ...attributes });
  element.textContent = words;
  return element;
}
