'use strict';
// Everything that comes is put into the page as text, never as HTML.
const byId = (id) => document.getElementById(id);
const KINDS = ['fork', 'vfork', 'posix_spawn', 'clone', 'thread', 'io_thread', 'kthread'];
const COLOURS = ['#2f80c8', '#d67300', '#009e73', '#c75b9b', '#8d6fd6', '#b08a00', '#d1454b'];
const DASHES = ['', '8 3', '2 3', '8 3 2 3', '12 4', '4 4', '1 4'];
const HISTORY = 120;
let history = [];
let mark = null;
let last = null;
// A connection ends by itself after seconds and the next begins half a second later: only longer
// than this is silence.
const SILENCE = 5000;
const opened = Date.now();

const count = (n) => Math.round(n).toLocaleString('en');
const clock = (at) => new Date(at).toLocaleTimeString('en-GB');
const rate = (n) => (n === null ? '–' : n < 10 ? `${n.toFixed(1)}/s` : `${count(n)}/s`);
function time(s) {
  if (s === null) return '–';
  for (const [size, unit] of [[1e-6, 'ns'], [1e-3, 'µs'], [1, 'ms'], [60, 's']]) {
    const value = s / (size === 60 ? 1 : size / 1e3);
    if (s < size) return `${value < 9.95 && unit !== 'ns' ? value.toFixed(1) : Math.round(value)} ${unit}`;
  }
  return `${(s / 60).toFixed(1)} min`;
}
function size(n) {
  for (const unit of ['B', 'kB', 'MB', 'GB']) {
    if (n < 1000) return `${unit === 'B' || n >= 99.95 ? Math.round(n) : n.toFixed(1)} ${unit}`;
    n /= 1000;
  }
  return `${n.toFixed(1)} TB`;
}

// Counters by their labels, and histograms likewise.
const family = (from, name) => from?.families[name] ?? [];
const key = (of) => (of.role && of.outcome ? `${of.role}: ${of.outcome}` : Object.values(of).join(' '));
function counts(from, name, label) {
  const sums = new Map();
  for (const one of family(from, name)) {
    const by = label ? one.of[label] ?? '' : key(one.of);
    sums.set(by, (sums.get(by) ?? 0) + one.n);
  }
  return sums;
}
const total = (all) => Array.from(all.values()).reduce((sum, n) => sum + n, 0);
const minus = (now, then) => new Map(Array.from(now, ([by, n]) => [by, n - (then.get(by) ?? 0)]));

// The buckets of now without those of then.
function since(now, then) {
  const before = new Map(then?.buckets ?? []);
  const buckets = now.buckets.map(([le, n]) => [le, n - (before.get(le) ?? 0)]).filter(([, n]) => n > 0);
  return { buckets, n: buckets.reduce((sum, [, n]) => sum + n, 0) };
}
function quantile(of, q) {
  const rank = Math.max(1, Math.ceil(of.n * q));
  let seen = 0;
  for (const [le, n] of of.buckets) {
    seen += n;
    if (seen >= rank) return le;
  }
  return null;
}

function table(place, caption, heads, rows) {
  const box = byId(place);
  if (!rows.length) {
    box.replaceChildren(Object.assign(document.createElement('p'), { textContent: `${caption}: nothing yet.` }));
    return;
  }
  let found = box.querySelector('table');
  if (!found) {
    const wide = document.createElement('div');
    wide.className = 'wide';
    wide.tabIndex = 0;
    wide.setAttribute('role', 'region');
    wide.setAttribute('aria-label', caption);
    found = document.createElement('table');
    found.createCaption().textContent = caption;
    found.createTHead();
    found.createTBody();
    wide.append(found);
    box.replaceChildren(wide);
  }
  const cell = (tag, text, scope, word) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (scope) made.scope = scope;
    if (word) made.className = 'word';
    return made;
  };
  const head = document.createElement('tr');
  head.append(...heads.map((text, at) => cell('th', text, 'col', at === 0)));
  found.tHead.replaceChildren(head);
  found.tBodies[0].replaceChildren(...rows.map((row) => {
    const made = document.createElement('tr');
    made.append(...row.map((text, at) => (at ? cell('td', text) : cell('th', text, 'row', true))));
    return made;
  }));
}

const SVG = 'http://www.w3.org/2000/svg';
function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
// Lines in a frame: `x` and `y` give a value its place between 0 and 1.
function plot(place, title, says, lines, x, y, xs, ys) {
  const [W, H, L, R, T, B] = [760, 320, 80, 40, 34, 30];
  const svg = shape('svg', { viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': `${title}. ${says}`, 'font-size': 14, fill: 'currentColor' });
  const px = (v) => L + x(v) * (W - L - R);
  const py = (v) => H - B - y(v) * (H - T - B);
  for (const [value, name] of ys) {
    svg.append(shape('line', { x1: L, x2: W - R, y1: py(value), y2: py(value), stroke: 'currentColor', opacity: 0.15 }));
    svg.append(shape('text', { x: L - 6, y: py(value) + 5, 'text-anchor': 'end' }, name));
  }
  for (const [value, name] of xs) svg.append(shape('text', { x: px(value), y: H - 8, 'text-anchor': 'middle' }, name));
  let at = L;
  for (const { name, points } of lines) {
    const n = Math.max(0, KINDS.indexOf(name));
    const look = { fill: 'none', stroke: COLOURS[n], 'stroke-width': 2, 'stroke-dasharray': DASHES[n] };
    svg.append(shape('polyline', { ...look, points: points.map(([a, b]) => `${px(a).toFixed(1)},${py(b).toFixed(1)}`).join(' ') }));
    // A line from a point to itself is not seen.
    if (points.length && points.every(([a]) => px(a) - px(points[0][0]) < 1)) {
      svg.append(shape('circle', { cx: px(points[0][0]), cy: py(points[points.length - 1][1]), r: 4, fill: COLOURS[n] }));
    }
    svg.append(shape('line', { ...look, x1: at, x2: at + 22, y1: 14, y2: 14 }));
    svg.append(shape('text', { x: at + 27, y: 19 }, name));
    at += 50 + 8 * name.length;
  }
  byId(`${place}-plot`).replaceChildren(svg);
  byId(`${place}-says`).textContent = says;
}

function rates(then, now) {
  const by = counts(now, 'spawns', 'mechanism');
  const before = then ? counts(then, 'spawns', 'mechanism') : null;
  const took = then ? Math.max(0.001, (now.at - then.at) / 1000) : null;
  return new Map(KINDS.map((kind) => [kind, before ? ((by.get(kind) ?? 0) - (before.get(kind) ?? 0)) / took : null]));
}

function draw() {
  const now = last;
  const before = history[history.length - 2]?.figures ?? null;
  const per = rates(before, now);
  const made = counts(now, 'spawns', 'mechanism');
  const kinds = KINDS.filter((kind) => made.get(kind));
  const marked = mark ? (now.at - mark.at) / 1000 : 0;
  const comparing = mark !== null && marked > 0;

  const copied = total(counts(now, 'cow_copied'));
  const lost = total(counts(now, 'events_lost'));
  const failed = total(counts(now, 'spawn_failures'));
  const execs = counts(now, 'execs', 'result');
  const figures = [
    ['Spawns', count(total(made)), before ? rate(total(per)) : ''],
    ['Execs', count(execs.get('ok') ?? 0), `${count(total(execs) - (execs.get('ok') ?? 0))} failed`],
    ['Failed calls', count(failed), 'to make a process or thread'],
    ['Copied on write', size(copied), ''],
    ['Records lost', count(lost), lost ? 'no total lacks them' : 'nothing is missing'],
  ];
  byId('figures').replaceChildren(...figures.map(([name, value, more]) => {
    const box = document.createElement('div');
    const dd = Object.assign(document.createElement('dd'), { textContent: value });
    dd.append(Object.assign(document.createElement('small'), { textContent: more }));
    box.append(Object.assign(document.createElement('dt'), { textContent: name }), dd);
    return box;
  }));
  byId('trouble').hidden = !now.troubles.length;
  byId('trouble').textContent = now.troubles.join('; ');
  const build = family(now, 'build')[0]?.of ?? {};
  byId('about').textContent = `forkscope ${build.version ?? ''} · ${build.backend ?? ''} backend`;

  const lines = kinds.map((kind) => ({ name: kind, points: history.filter((one) => one.rates).map((one) => [(one.at - now.at) / 1000, one.rates.get(kind) ?? 0]) }));
  const most = Math.max(1, ...lines.flatMap((line) => line.points.map((point) => point[1])));
  const top = 10 ** Math.ceil(Math.log10(most));
  const step = most > top / 2 ? top / 4 : top / 10;
  const high = Math.ceil(most / step) * step;
  const ticks = Array.from({ length: Math.round(high / step) + 1 }, (_, n) => [n * step, rate(n * step)]);
  const fastest = kinds.map((kind) => `${kind} ${rate(per.get(kind))}`).join(', ');
  plot('rates', 'Spawns a second by mechanism', `The last ${HISTORY} seconds. Now: ${fastest || 'nothing'}.`, lines,
    (v) => 1 + v / HISTORY, (v) => v / high, [[-HISTORY, '−2 min'], [-60, '−1 min'], [0, 'now']], ticks);

  const then = counts(mark, 'spawns', 'mechanism');
  table('rates', 'Spawns by mechanism',
    ['mechanism', 'now', 'in all', ...(comparing ? ['since the mark', 'a second since'] : [])],
    kinds.map((kind) => {
      const more = made.get(kind) - (then.get(kind) ?? 0);
      return [kind, rate(per.get(kind)), count(made.get(kind)), ...(comparing ? [count(more), rate(more / marked)] : [])];
    }));

  // Fixed axes, as in a report: 100 ns to 10 s, up to 99.999 %.
  const calls = family(now, 'spawn_latency');
  const ranks = (of) => {
    let below = 0;
    return of.buckets.flatMap(([le, n]) => {
      const from = of.n / (of.n - below);
      below += n;
      const to = below < of.n ? of.n / (of.n - below) : Math.max(of.n, from);
      return [[Math.min(from, 1e5), le], [Math.min(to, 1e5), le]];
    });
  };
  const clamp = (v) => Math.min(1, Math.max(0, v));
  plot('latency', 'Percentiles of creating calls by mechanism',
    'How long creating calls took, from the fastest at 0 % on the left to the slowest and rarest on the right.',
    calls.map((one) => ({ name: one.of.mechanism, points: ranks(one) })),
    (v) => Math.log10(v) / 5, (v) => clamp((Math.log10(v) + 7) / 8),
    [[1, '0 %'], [10, '90 %'], [100, '99 %'], [1000, '99.9 %'], [1e4, '99.99 %'], [1e5, '99.999 %']],
    [[1e-7, '100 ns'], [1e-6, '1 µs'], [1e-5, '10 µs'], [1e-4, '100 µs'], [1e-3, '1 ms'], [1e-2, '10 ms'], [0.1, '100 ms'], [1, '1 s'], [10, '10 s']]);
  const rows = [];
  for (const [name, title] of [['spawn_latency', 'call'], ['spawn_blocked', 'of it frozen'], ['start_delay', "child's first run"],
    ['address_space_copy', 'address space copied'], ['exec_latency', 'exec'], ['process_lifetime', 'process lifetime'], ['cow_fault_latency', 'COW fault']]) {
    for (const one of family(now, name).filter((one) => one.n)) {
      const old = family(mark, name).find((other) => key(other.of) === key(one.of));
      const row = [`${key(one.of)} ${title}`.trim(), count(one.n), ...[0.5, 0.9, 0.99, 1].map((q) => time(quantile(one, q)))];
      if (comparing) {
        const later = since(one, old);
        const ratio = (q) => {
          const [a, b] = [old ? quantile(old, q) : null, quantile(later, q)];
          return b === null ? '–' : `${time(b)}${a ? ` (${(b / a).toFixed(2)}×)` : ''}`;
        };
        row.push(count(later.n), ratio(0.5), ratio(0.99));
      }
      rows.push(row);
    }
  }
  table('latencies', 'Percentiles', ['what', 'count', 'p50', 'p90', 'p99', 'longest',
    ...(comparing ? ['since the mark', 'p50 since', 'p99 since'] : [])], rows);

  const compared = (place, caption, head, name, label) => {
    const all = counts(now, name, label);
    // Of execs, those that failed.
    all.delete('ok');
    const more = minus(all, counts(mark, name, label));
    const order = comparing ? more : all;
    table(place, caption, [head, 'in all', ...(comparing ? ['since the mark'] : [])],
      Array.from(all).filter(([, n]) => n).sort((a, b) => order.get(b[0]) - order.get(a[0])).slice(0, 50)
        .map(([by, n]) => [by, count(n), ...(comparing ? [count(more.get(by))] : [])]));
  };
  compared('cow', 'Write faults after forks', 'who, and what became of the page', 'cow_faults');
  compared('who', 'Spawns by the parent\'s name', 'parent', 'spawns', 'comm');
  compared('failed', 'Failed calls by error', 'error', 'spawn_failures');
  compared('execs', 'Failed execs by error', 'error', 'execs', 'result');
  compared('lost', 'Records lost, by stage', 'stage', 'events_lost');
  table('measured', 'Measurements', ['measurement', 'state', 'by'],
    family(now, 'measurement').map(({ of }) => [of.measurement.replaceAll('_', ' '), of.state, of.by]));
}

byId('mark').addEventListener('click', () => {
  mark = last;
  byId('forget').hidden = false;
  byId('said').textContent = mark ? `compared with ${clock(mark.at)}` : 'nothing to compare with yet';
});
byId('forget').addEventListener('click', () => {
  mark = null;
  byId('forget').hidden = true;
  byId('said').textContent = 'compared with nothing';
  if (last) draw();
});
byId('pause').addEventListener('click', () => {
  const paused = byId('pause').getAttribute('aria-pressed') !== 'true';
  byId('pause').setAttribute('aria-pressed', String(paused));
});

// What is shown is of now, or of then.
function silent(words) {
  if (byId('silent').textContent === words) return;
  byId('silent').textContent = words;
  byId('silent').className = words ? 'warn' : '';
  byId('content').classList.toggle('old', words !== '');
  byId('now-h').textContent = words && last ? `At ${clock(last.at)}` : 'Now';
}

const source = new EventSource('/events');
source.addEventListener('message', (event) => {
  const figures = JSON.parse(event.data);
  figures.at = Date.now();
  // Another forkscope counts from 0: nothing of before can be compared with it.
  if (last && last.since !== figures.since) {
    history = [];
    mark = null;
    byId('forget').hidden = true;
    byId('said').textContent = 'forkscope was restarted: counts begin again';
  }
  last = figures;
  silent('');
  const before = history[history.length - 1]?.figures;
  history.push({ at: figures.at, figures, rates: before ? rates(before, figures) : null });
  // Only the last two are needed whole.
  if (history.length > 2) history[history.length - 3].figures = null;
  if (history.length > HISTORY + 10) history.shift();
  if (byId('pause').getAttribute('aria-pressed') !== 'true') draw();
});
source.addEventListener('error', () => {
  if (source.readyState === EventSource.CLOSED) silent('no more figures: too many are watching, or forkscope has ended; load the page again');
});
setInterval(() => {
  if (source.readyState === EventSource.CLOSED || Date.now() - (last?.at ?? opened) < SILENCE) return;
  silent(`no figures ${last ? `since ${clock(last.at)}` : 'yet'}: forkscope serve does not answer; trying again`);
}, 1000);
