// What a course says, as hf_sqa/blocks/timeline.py and the end of hf_sqa/blocks/faults.py; their numbers are in page.json.
const { abs, floor, max, min } = Math;

// Rows {start, end, value} of one score, where somebody speaks.
export function rowsOf(points, name) {
  return points.filter(({ scores }) => scores).map(({ start, end, scores }) => ({ start, end, value: scores[name] }));
}

// The stretch around the lowest point, or null if nobody speaks.
export function worstOf(rows, edgeShare) {
  if (!rows.length) return null;
  const drop = dropsOf(rows);
  return stretchOf(rows, drop, drop.indexOf(drop.reduce((a, b) => max(a, b))), edgeShare);
}

// Faults that have a name, and stretches without one that fall far below the rest of the recording, in order.
export function namedFaults(rows, faults, { edge_share, unnamed_depth }) {
  if (!rows.length) return [];
  const apart = (heard) => faults.every(({ start, end }) => heard.end <= start || end <= heard.start);
  const others = fallsOf(rows, unnamed_depth, edge_share).filter(apart).map((heard) => ({ ...heard, kind: "other" }));
  return [...faults.map((fault) => ({ ...fault, value: lowestIn(rows, fault) })), ...others].sort((a, b) => a.start - b.start);
}

// Faults from what the network decided about every step: probabilities of no fault, then of each kind.
export function stretchesOf(decided, { kinds, step_seconds, smooth_steps, join_steps, certain, reaches }) {
  const ofAny = decided.map(([none]) => 1 - none), half = floor(smooth_steps / 2), runs = [];
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const smooth = decided.length < smooth_steps ? ofAny
    : ofAny.map((_, step) => sum(ofAny.slice(max(0, step - half), step + half + 1)) / smooth_steps);
  ofAny.forEach((probability, step) => {
    if (probability < reaches) return;
    const before = runs.at(-1);
    if (before && step - before.end <= join_steps) before.end = step + 1;
    else runs.push({ start: step, end: step + 1 });
  });
  return runs.filter(({ start, end }) => smooth.slice(start, end).some((value) => value >= certain)).map(({ start, end }) => {
    const ofKind = kinds.map((_, kind) => sum(decided.slice(start, end).map((probabilities) => probabilities[kind + 1])));
    return { start: start * step_seconds, end: end * step_seconds, kind: kinds[ofKind.indexOf(max(...ofKind))] };
  });
}

function dropsOf(rows) {
  const sorted = rows.map(({ value }) => value).sort((a, b) => a - b), middle = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return rows.map(({ value }) => median - value);
}

// Stretches whose quality falls below that of the rest by `depth`, in order.
function fallsOf(rows, depth, edgeShare) {
  const drop = dropsOf(rows), found = [];
  for (let index = 0; rows.length >= 3 && index < rows.length; index++) {
    if (drop[index] <= depth / 2) continue;
    let deepest = index;
    for (; index < rows.length && drop[index] > depth / 2; index++) if (drop[index] > drop[deepest]) deepest = index;
    if (drop[deepest] >= depth) found.push(stretchOf(rows, drop, deepest, edgeShare));
  }
  return found;
}

// From where to where the curve stays within the share of its depth at the lowest point.
function stretchOf(rows, drop, lowest, edgeShare) {
  const level = edgeShare * drop[lowest], inside = (index) => drop[index] >= level && drop[index] > 0;
  let first = lowest, last = lowest;
  while (first > 0 && inside(first - 1)) first--;
  while (last + 1 < rows.length && inside(last + 1)) last++;

  // Where the curve crosses the level between two points; at silence and at the ends, where the last stretch ends.
  const edge = (index, outside, border, other) => {
    const row = rows[index], next = rows[outside];
    if (!next || abs(next[other] - row[border]) > 1e-3) return row[border];
    const center = (row.start + row.end) / 2, away = (next.start + next.end) / 2 - center;
    return center + away * min(1, max(0, (drop[index] - level) / max(drop[index] - drop[outside], 1e-9)));
  };
  return { start: edge(first, first - 1, "start", "end"), end: edge(last, last + 1, "end", "start"), value: rows[lowest].value };
}

// Lowest score of the rows whose middle lies in the fault, else of the row nearest to it.
function lowestIn(rows, { start, end }) {
  const away = rows.map((row) => max(start - (row.start + row.end) / 2, (row.start + row.end) / 2 - end, 0)), nearest = away.reduce((a, b) => min(a, b));
  return rows.filter((_, index) => away[index] <= nearest).reduce((lowest, { value }) => min(lowest, value), Infinity);
}
