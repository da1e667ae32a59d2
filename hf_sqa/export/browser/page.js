// The page: a file or the microphone in, score, interval and course out.
import { namedFaults, rowsOf, worstOf } from "./course.js";
import { FaultFinder } from "./faults.js";
import { listen, SHOWN_SECONDS, whyNoMicrophone } from "./live.js";
import { LocalMeter } from "./local.js";
import { clock, draw, envelopeOf } from "./picture.js";
import { decode, gate, intervalOf, load, Refused, resample, score } from "./score.js";

const COLUMNS = 1200, DRAWS_PER_SECOND = 4, MOST_FAULTS = 5;
const [file, microphone, state, shown, remark, found, picture] = [
  "file", "microphone", "state", "score", "remark", "faults", "picture",
].map((id) => document.getElementById(id));
let redraw = () => {};
addEventListener("resize", () => redraw());

function tell(text, kind = "") {
  state.textContent = text;
  state.className = kind;
}

function clear() {
  shown.textContent = remark.textContent = found.textContent = "";
  picture.replaceChildren();
  redraw = () => {};
  delete picture.dataset.course;
  delete document.body.dataset.done;
}

function show(content) {
  redraw = () => draw(picture, content);
  redraw();
}

function named(scores) {
  const names = Object.keys(scores);
  return names.map((name) => (names.length > 1 ? `${name} ` : "") + scores[name].toFixed(2)).join(" ");
}

// The interval in words, or how to get one.
function howSure(model, scores) {
  const found = Object.entries(scores).map(([name, value]) => [name, intervalOf(model, name, value)]).filter(([, interval]) => interval);
  if (!found.length) return "No interval: this checkpoint is not calibrated; `hf-sqa calibrate` does it with rated clips.";
  const ranges = found.map(([name, { low, high }]) => `${found.length > 1 ? `${name} ` : ""}${low.toFixed(2)} and ${high.toFixed(2)}`);
  return `Between ${ranges.join(", ")} for ${100 * found[0][1].coverage} % of recordings like those it was calibrated on.`;
}

// Points, the worst stretch and the faults.
async function courseOf(model, mono, name, progress) {
  const meter = new LocalMeter(model), finder = new FaultFinder(model), step = 8 * model.config.sampling_rate, points = [];
  for (let start = 0; start < mono.length; start += step) {
    points.push(...(await meter.feed(mono.subarray(start, start + step))));
    await finder.feed(mono.subarray(start, start + step));
    progress(Math.min(mono.length, start + step) / mono.length);
    await new Promise((resolve) => setTimeout(resolve)); // the page stays alive
  }
  points.push(...(await meter.close()));
  const { local } = model.facts, rows = rowsOf(points, name);
  return { points, worst: worstOf(rows, local.edge_share), faults: namedFaults(rows, await finder.close(), local) };
}

// The faults in words, the deepest of them if they are many.
function inWords(faults) {
  const deepest = [...faults].sort((a, b) => a.value - b.value).slice(0, MOST_FAULTS).sort((a, b) => a.start - b.start);
  const words = deepest.map(({ kind, start, end }) => `${kind} from ${clock(start)} to ${clock(end)}`);
  if (faults.length > MOST_FAULTS) words.push(`and ${faults.length - MOST_FAULTS} more`);
  return words.length ? `${words.length > 1 ? "Faults" : "Fault"}: ${words.join(", ")}.` : "No fault stands out.";
}

async function judge(model, recording) {
  const rate = model.config.sampling_rate, { local, categories } = model.facts;
  const { channels, samplingRate } = await decode(await recording.arrayBuffer());
  const { mono, seconds, warnings } = gate(channels, samplingRate);
  const samples = resample(mono, samplingRate, rate);
  const scores = await score(model, samples, (done, all) => tell(`Scored ${done} of ${all} windows`));
  shown.textContent = named(scores);
  shown.dataset.scores = JSON.stringify(scores);
  const [name] = Object.keys(scores), interval = howSure(model, scores);
  const doubtful = warnings.includes("short") ? ", short: the score is doubtful" : "";
  remark.textContent = `${seconds.toFixed(1)} s${doubtful}. ${interval}`;
  const { points, worst, faults } = await courseOf(model, samples, name, (share) => tell(`Course: ${Math.round(100 * share)} %`));
  found.textContent = points.some(({ scores }) => scores) ? inWords(faults) : "Nobody speaks.";
  const spoken = points.filter(({ scores }) => scores);
  picture.dataset.course = JSON.stringify({ points: spoken, worst, faults, interval: intervalOf(model, name, scores[name]) });
  const label = `Waveform and local quality over ${seconds.toFixed(1)} seconds`;
  const envelope = envelopeOf(mono, samplingRate, COLUMNS);
  show({ from: 0, to: seconds, envelope, points, name, overall: scores[name], worst, faults, categories, method: local.method, label });
}

function onFile(model) {
  file.addEventListener("change", async () => {
    if (!file.files.length) return;
    const [recording] = file.files;
    file.disabled = microphone.disabled = true;
    clear();
    tell("Decoding");
    try {
      await judge(model, recording);
      tell(recording.name);
    } catch (error) {
      tell(`${recording.name}: ${error.message}` + (error instanceof Refused ? ` [${error.code}]` : ""), "refused");
    } finally {
      file.disabled = false;
      microphone.disabled = whyNoMicrophone() !== "";
      document.body.dataset.done = recording.name;
    }
  });
}

function onMicrophone(model) {
  const { local, categories } = model.facts;
  let session = null;

  function ended(sentence, kind) {
    session = null;
    file.disabled = false;
    microphone.textContent = "Use the microphone";
    tell(sentence, kind);
  }

  microphone.addEventListener("click", async () => {
    if (session) {
      await session.stop();
      ended("The microphone is off.");
      return;
    }
    clear();
    file.disabled = true;
    let drawn = 0;
    const heard = ({ seconds, envelope, points, running, worst }) => {
      picture.dataset.course = JSON.stringify({ points: points.filter(({ scores }) => scores), running, seconds, worst });
      if (!session || (performance.now() - drawn) * DRAWS_PER_SECOND < 1000) return;
      drawn = performance.now();
      const [name] = model.names, from = Math.max(0, seconds - SHOWN_SECONDS), overall = running?.[name];
      shown.textContent = running ? named(running) : "";
      remark.textContent = running ? `Mean of ${clock(seconds)}.` : "Nobody speaks yet.";
      if (worst) found.textContent = `Worst so far: ${worst.value.toFixed(1)} from ${clock(worst.start)} to ${clock(worst.end)}.`;
      const label = "Waveform and local quality of the last minute";
      show({ from, to: Math.max(from + 10, seconds), envelope, points, name, overall, worst, faults: [], categories, method: local.method, label });
    };
    try {
      session = await listen(model, heard, (sentence) => ended(sentence, "refused"));
      microphone.textContent = "Stop";
      tell("Listening; a score is known a second or two later.");
    } catch (error) {
      ended(error.message, "refused");
    }
  });
}

try {
  const model = await load();
  model.names = Object.values(model.config.id2label);
  tell(["Choose a recording, or use the microphone.", whyNoMicrophone()].filter(Boolean).at(-1));
  file.disabled = false;
  microphone.disabled = whyNoMicrophone() !== "";
  onFile(model);
  onMicrophone(model);
} catch (error) {
  tell(`The model cannot be loaded: ${error.message}`, "refused");
}
