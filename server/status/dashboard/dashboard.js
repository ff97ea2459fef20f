/* dashboard.js - the page: /history for what has been, /events for what is; or a moment that it brings. All text goes through textContent. */
(function () {
'use strict';

var status_ = null, heard = 0, points = [], log = [], logLines = -1, ended = false, byStep = false, logY = false;
var sortBy = 'awaited_share', sortDown = true, charts = [], source = null, polling = 0, asking = false;
var saved = document.getElementById('saved'); /* in a page that psdctl status --html made */
var MAX_POINTS = 4096, STALE_MS = 3000, POLL_MS = 2000, GONE_S = 5;

/* ---- elements ---- */

function h(tag, attributes) {
  var e = document.createElement(tag), key, i, child;
  for (key in attributes)
    if (key === 'click') e.addEventListener('click', attributes.click);
    else if (attributes[key] !== null) e.setAttribute(key, attributes[key]);
  for (i = 2; i < arguments.length; i++) {
    child = arguments[i];
    if (Array.isArray(child)) child.forEach(function (c) { e.append(c); });
    else if (child !== null && child !== undefined) e.append(child);
  }
  return e;
}

function fill(e) {
  e.replaceChildren.apply(e, [].concat.apply([], [].slice.call(arguments, 1)).filter(function (c) { return c !== null; }));
}

/* ---- numbers for people ---- */

var NONE = '–';

function isNumber(x) { return typeof x === 'number' && isFinite(x); }

function plain(x) {
  return !isNumber(x) ? NONE : Number.isInteger(x) && Math.abs(x) < 1e15 ? String(x) : String(+x.toPrecision(4));
}

function scaled(x, units, base) {
  var i = 0;
  if (!isNumber(x)) return NONE;
  for (; Math.abs(x) >= base && i + 1 < units.length; i++) x /= base;
  return +x.toPrecision(3) + units[i];
}

function bytes(x) { return scaled(x, [' B', ' KiB', ' MiB', ' GiB', ' TiB'], 1024); }

function decimalBytes(x) { return scaled(x, [' B', ' kB', ' MB', ' GB'], 1000); }

function rate(x) { return scaled(x, ['', ' k', ' M', ' G'], 1000); }

function percent(x) { return !isNumber(x) ? NONE : Math.round(x * 100) + ' %'; }

function duration(s) {
  if (!isNumber(s)) return NONE;
  if (s >= 3600) return Math.floor(s / 3600) + ' h ' + Math.floor(s / 60 % 60) + ' min';
  if (s >= 60) return Math.floor(s / 60) + ' min ' + Math.floor(s % 60) + ' s';
  return s >= 1 ? +s.toPrecision(3) + ' s' : s >= 1e-3 ? +(s * 1e3).toPrecision(3) + ' ms' : s > 0 ? +(s * 1e6).toPrecision(3) + ' µs' : '0 s';
}

function clock(ts) { return new Date(ts * 1000).toLocaleTimeString(); }

/* ---- the head ---- */

var MOODS = { training: ['good', '▶'], finished: ['good', '✔'], paused: ['', '⏸'], waiting: ['', '…'], degraded: ['bad', '▲'],
              stopped: ['bad', '■'], failed: ['bad', '✖'] };

function putHead(s) {
  var mood = MOODS[s.state] || ['', ''];
  document.title = s.job + ' – psd';
  fill(parts.head, h('h1', {}, s.job), h('span', { 'class': 'state ' + mood[0], id: 'state' }, mood[1] + ' ' + s.state),
       h('span', {}, 'shard ' + s.shard.index + ' of ' + s.shard.count),
       s.reason ? h('span', {}, 'waits for ' + s.reason) : null, parts.news);
  var gone = absences(s);
  fill(parts.alerts, gone.concat((s.alerts || []).filter(function (text) { return !gone.length || !/ is lost; /.test(text); })).map(function (text) { return h('li', {}, text); }));
}

/* Who is gone, at the top: "2 of 3 workers: worker 1 (name) is lost since 14:03:12". */
function since(age) { return isNumber(age) ? ' is lost since ' + clock(s_now() - age) : ' is lost'; }

function s_now() { return status_ ? status_.now : Date.now() / 1000; }

function absences(s) {
  var out = [], workers = s.workers_lost || s.workers.filter(function (w) { return w.state === 'lost'; });
  var servers = s.servers_lost || s.servers.filter(function (x) { return isNumber(x.last_heard_age_seconds) && x.last_heard_age_seconds > GONE_S; });
  var here = isNumber(s.workers_live) ? s.workers_live : s.workers.filter(function (w) { return w.state === 'live' || w.state === 'late'; }).length;
  var due = Math.max(isNumber(s.workers_want) ? s.workers_want : 0, here + workers.length);
  if (ended || s.state === 'finished') return out;
  if (workers.length) out.push(here + ' of ' + due + ' workers: ' + workers.map(function (w) {
    return 'worker ' + w.id + ' (' + w.name + ')' + since(w.last_heard_age_seconds); }).join(', '));
  if (servers.length) out.push(s.shard.count - servers.length + ' of ' + s.shard.count + ' servers: ' + servers.map(function (x) {
    return 'server ' + x.index + ' (' + x.endpoint + ')' + since(x.last_heard_age_seconds); }).join(', '));
  return out;
}

function latestRate(key) {
  var last = points[points.length - 1], i = points.length - 1;
  while (i > 0 && last.ts - points[i].ts < 5) i--;
  return last && last.ts > points[i].ts ? Math.max(last[key] - points[i][key], 0) / (last.ts - points[i].ts) : NaN; /* it may have gone back */
}

function putCards(s) {
  var point = s.checkpoint || {}, report = s.report;
  function card(value, label) { return h('div', { 'class': 'card' }, h('b', {}, value), label); }
  fill(parts.cards, card(plain(s.progress.step), 'step'),
       isNumber(s.progress.epoch) ? card(s.progress.epoch.toFixed(2), 'epoch') : null,
       isNumber(s.progress.left_seconds) ? card(duration(Math.round(s.progress.left_seconds)), 'left') : null,
       card(plain(s.loss.train), 'training loss'),
       report ? card(plain(report.value), report.name) : null,
       card(rate(latestRate('samples')), 'samples/s'), card(rate(latestRate('step')), 'steps/s'),
       card(plain(s.optimizer.lr_now), 'learning rate'),
       s.checkpoint ? card(duration(point.age_seconds), 'since the checkpoint') : null,
       card(duration(s.uptime_seconds), 'up'));
  layTiles();
}

/* So many in a row that the last row is not one tile alone. */
function layTiles() {
  var n = parts.cards.children.length, most = Math.max(2, Math.floor(parts.cards.clientWidth / 140));
  var columns = Math.ceil(n / Math.ceil(n / most));
  parts.cards.style.gridTemplateColumns = 'repeat(' + columns + ', minmax(0, 1fr))';
  parts.cards.lastChild.style.gridColumn = n > 1 && n % columns === 1 ? '1 / -1' : '';
}

/* ---- curves ---- */

function derived(key, scale) {
  return function (i) {
    var a = points[Math.max(0, i - 4)], b = points[i];
    return b.ts > a.ts && b[key] >= a[key] ? (b[key] - a[key]) * scale / (b.ts - a.ts) : null;
  };
}

function stored(key) { return function (i) { return points[i][key]; }; }

/* Before the first step none has been used. */
function rateOfStep(i) { return points[i].step ? points[i].lr : null; }

function rateMoves() {
  var rates = points.map(function (p, i) { return rateOfStep(i); }).filter(isNumber);
  return rates.some(function (rate) { return rate !== rates[0]; });
}

/* Names, what they are at a point, how they are written, whether they may stand against steps; `moving`: only once that has moved. */
var CURVES = [
  { title: 'Loss', series: [['training loss', stored('loss')], ['test loss', stored('val_loss')]], format: plain, curve: true },
  { title: 'Samples/s', series: [['samples/s', derived('samples', 1)]], format: rate },
  { title: 'Bytes/s', series: [['received', derived('received_bytes', 1)], ['sent', derived('sent_bytes', 1)]], format: decimalBytes },
  { title: 'Report', series: [['', stored('report')]], format: plain, curve: true, report: true },
  { title: 'Learning rate', series: [['learning rate', rateOfStep]], format: plain, curve: true, moving: true }
];

/* Colour, dashed, what it is; what is said often is thinned. */
var MARKS = { 'checkpoint.committed': ['--busy', false, 'checkpoint', true], 'worker.joined': ['--good', false, 'a worker joined'],
              'worker.lost': ['--bad', true, 'a worker was lost'], 'worker.left': ['--waiting', true, 'a worker left'],
              'job.restart': ['--bad', false, 'the job went back'] };

function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

function xOf(point, curve) { return curve.curve && byStep ? point.step : new Date(point.ts * 1000); }

function rowsOf(curve) {
  return points.map(function (point, i) {
    return [xOf(point, curve)].concat(curve.series.map(function (s) { var y = s[1](i); return isNumber(y) ? y : null; }));
  });
}

/* The log's events as vertical lines; against steps, at the first point that is not before them. */
function marksOf(curve) {
  return function (canvas, area, graph) {
    var gap = Math.max(24, area.w / 8), last = -gap; /* pixels between two of what is thinned */
    log.forEach(function (line) {
      var kind = MARKS[line.id], point, x;
      if (!kind) return;
      if (curve.curve && byStep) {
        point = points.find(function (p) { return p.ts >= line.ts; });
        if (!point) return;
        x = graph.toDomXCoord(point.step);
      } else x = graph.toDomXCoord(line.ts * 1000);
      if (x < area.x || x > area.x + area.w) return;
      if (kind[3] && x - last < gap) return;
      if (kind[3]) last = x;
      canvas.save();
      canvas.strokeStyle = colour(kind[0]);
      canvas.globalAlpha = 0.55;
      canvas.setLineDash(kind[1] ? [4, 3] : []);
      canvas.beginPath();
      canvas.moveTo(x, area.y);
      canvas.lineTo(x, area.y + area.h);
      canvas.stroke();
      canvas.restore();
    });
  };
}

function optionsOf(curve) {
  var line = colour('--line'), axis = { axisLineColor: line, gridLineColor: line, axisLabelFontSize: 12 };
  function write(y) { return curve.format(y); }
  return { colors: [colour('--computing'), colour('--sending')], strokeWidth: 1.6, logscale: !!curve.curve && logY,
           axisLineColor: line, gridLineColor: line, axisLabelFontSize: 12, labelsDiv: curve.legend, legend: 'always',
           labels: [curve.curve && byStep ? 'step' : 'time'].concat(curve.series.map(function (s) { return s[0]; })),
           underlayCallback: marksOf(curve), highlightCircleSize: 3, connectSeparatedPoints: true,
           axes: { x: axis, y: { axisLabelFormatter: write, valueFormatter: write, axisLabelWidth: 62 } } };
}

function putCharts(rebuild) {
  CURVES.forEach(function (curve) {
    var any = curve.moving ? rateMoves() : points.some(function (p) { return !curve.report || isNumber(p.report); });
    curve.section.hidden = !any || points.length < 2;
    if (curve.report && status_ && status_.report) curve.series[0][0] = status_.report.name;
    if (curve.section.hidden) return;
    if (curve.report) curve.section.querySelector('h2').textContent = curve.series[0][0];
    if (curve.graph && !rebuild) curve.graph.updateOptions({ file: rowsOf(curve) });
    else {
      if (curve.graph) curve.graph.destroy();
      curve.graph = new Dygraph(curve.chart, rowsOf(curve), optionsOf(curve));
    }
  });
  putMarks();
}

/* What the vertical lines are. */
function putMarks() {
  fill(parts.marks, Object.keys(MARKS).filter(function (id) { return log.some(function (line) { return line.id === id; }); }).map(function (id) {
    return h('span', {}, h('i', { 'class': 'mark', style: 'border-left-color:var(' + MARKS[id][0] + ');border-left-style:' + (MARKS[id][1] ? 'dashed' : 'solid') }), MARKS[id][2]);
  }));
}

function toggle(text, get, set) {
  return h('button', { type: 'button', 'aria-pressed': String(get()), click: function (event) {
    set(!get());
    event.target.setAttribute('aria-pressed', String(get()));
    putCharts(true);
  } }, text);
}

/* ---- tables ---- */

var PHASES = ['computing', 'sending', 'waiting', 'served'];
var REASONS = { compute: 'computes for long', network: 'its pushes arrive slowly', silent: 'nothing is heard of it' };

function split(w) {
  var shares = w.time_shares || {};
  return h('div', { 'class': 'split', role: 'img', 'aria-label': PHASES.map(function (p) { return p + ' ' + percent(shares[p]); }).join(', '),
                    title: PHASES.map(function (p) { return p + ' ' + percent(shares[p]); }).join('\n') },
           PHASES.map(function (p) { return h('i', { 'class': p, style: 'width:' + (shares[p] || 0) * 100 + '%' }); }));
}

/* What says who is waited for comes first, for narrow screens. Key to sort by, heading, what stands in the cell, whether it is a number, the mode that it is for (else for all). */
var COLUMNS = [
  ['id', 'worker', function (w) { return plain(w.id); }],
  ['state', 'state', function (w) { return w.state; }],
  ['awaited_share', 'waited for', function (w) { return percent(w.awaited_share); }, true, 'bsp'],
  ['slow_reason', 'why slow', function (w) { return h('span', { 'class': 'why' }, REASONS[w.slow_reason] || ''); }],
  ['', 'its time', split],
  ['compute_seconds', 'computes', function (w) { return duration(w.compute_seconds); }, true],
  ['send_seconds', 'sends', function (w) { return duration(w.send_seconds); }, true],
  ['samples_per_second', 'samples/s', function (w) { return rate(w.samples_per_second); }, true],
  ['lag_steps', 'lag', function (w) { return plain(w.lag_steps); }, true],
  ['last_push_age_seconds', 'last push', function (w) { return duration(w.last_push_age_seconds); }, true],
  ['staleness', 'staleness', function (w) { return plain(w.staleness); }, true, 'asp'],
  ['loss', 'loss', function (w) { return plain(w.loss); }, true],
  ['name', 'name', function (w) { return w.name; }]
];

function compare(a, b) {
  var x = a[sortBy], y = b[sortBy], order;
  if (sortBy === 'awaited_share' && !a.slow_reason !== !b.slow_reason) return a.slow_reason ? -1 : 1;
  if (x === undefined || x === null) return y === undefined || y === null ? a.id - b.id : 1;
  if (y === undefined || y === null) return -1;
  order = typeof x === 'string' ? x.localeCompare(y) : x - y;
  return (sortDown ? -order : order) || a.id - b.id;
}

function heading(column) {
  var sorted = column[0] && column[0] === sortBy;
  return h('th', { scope: 'col', 'class': column[3] ? 'number' : null, 'aria-sort': sorted ? (sortDown ? 'descending' : 'ascending') : null },
           !column[0] ? column[1] : h('button', { type: 'button', 'data-sort': column[0], click: function () {
             sortDown = sortBy === column[0] ? !sortDown : !!column[3];
             sortBy = column[0];
             putWorkers(status_);
             parts.workers.querySelector('[data-sort="' + sortBy + '"]').focus();
           } }, column[1]));
}

function putWorkers(s) {
  var focused = document.activeElement && document.activeElement.getAttribute('data-sort');
  var columns = COLUMNS.filter(function (c) { return !c[4] || c[4] === s.sync.mode; });
  fill(parts.workers, h('thead', {}, h('tr', {}, columns.map(heading))),
       h('tbody', {}, s.workers.slice().sort(compare).map(function (w) {
         return h('tr', { 'class': w.state === 'lost' ? 'lost' : w.slow_reason ? 'slow' : null, 'data-worker': w.id }, columns.map(function (c) {
           return h('td', { 'class': c[3] ? 'number' : null }, c[2](w));
         }));
       })));
  if (focused) parts.workers.querySelector('[data-sort="' + focused + '"]').focus();
}

function table(headings, rows) {
  return h('table', {}, h('tr', {}, headings.map(function (t) { return h('th', { scope: 'col' }, t); })),
           rows.map(function (row) { return h('tr', {}, row.map(function (cell) { return h('td', {}, cell); })); }));
}

function pairs(rows) {
  return h('table', {}, rows.filter(function (row) { return row; }).map(function (row) {
    return h('tr', {}, h('th', { scope: 'row' }, row[0]), h('td', {}, row[1]));
  }));
}

/* Why a message was refused, for people; most refusals are harmless, and psd recovers without help. */
var REFUSED = { protocol: 'of another version of psd', job: 'of another job', shape: 'for a model of another shape',
  view: 'sent before a worker or server came or went (sent again)', incarnation: 'of an earlier life of a worker or server',
  worker: 'of a worker that is not in the job', shard: 'for another server', clock: 'for a round that is not open', checksum: 'damaged on the way',
  nonfinite: 'with Inf or NaN', duplicate: 'that came twice', stale: 'older than sync.max_staleness allows', malformed: 'that are no messages of psd',
  sender: 'of somebody who may not send such', full: 'of one worker or server too many', session: 'from before the newest decision',
  config: 'of a worker or server with other settings', run: 'from before the job was taken up again' };

function refusals(object) {
  var keys = Object.keys(object || {}).filter(function (k) { return object[k]; });
  return keys.length ? h('span', {}, keys.map(function (k) { return h('div', {}, object[k] + ' ' + (REFUSED[k] || k)); })) : 'none';
}

function putServers(s) {
  var front = Math.max.apply(null, s.servers.map(function (x) { return x.version; }).concat([0])), own = s.shards[0];
  fill(parts.servers, s.servers.length ? table(['shard', 'address', 'version', 'behind', 'heard'], s.servers.map(function (x) {
    return [plain(x.index), x.joined ? x.endpoint : 'has not joined', plain(x.version), plain(front - x.version),
            x.joined ? duration(x.last_heard_age_seconds) + ' ago' : NONE];
  })) : pairs([['all of them', 'are on the page of server 0']]));
  fill(parts.shard, pairs([['version', plain(own.version)], ['parameters', plain(own.parameters) + ' in ' + own.chunks + ' chunks, ' + bytes(own.bytes)],
    ['a chunk\'s step', duration(own.apply_seconds_p99) + ' (99th percentile)'], ['received', bytes(own.received_bytes)],
    ['sent', bytes(own.sent_bytes)], ['messages refused', refusals(own.rejected)]]));
}

function putOptimizer(s) {
  var o = s.optimizer, l = o.lookahead;
  fill(parts.optimizer, pairs([['rule', o.rule], ['learning rate now', plain(o.lr_now)],
    o.schedule && o.schedule.indexOf('constant') !== 0 ? ['schedule', o.schedule + ', by ' + o.schedule_unit] : null,
    l ? ['Lookahead', 'every ' + l.k + ' steps the slow weights move a fraction ' + plain(l.alpha) + ' of the way to the fast ones'] : null,
    l ? ['its phase', h('span', {}, l.k <= 20 ? h('span', { 'class': 'phase', 'aria-hidden': 'true' },
      '●'.repeat(l.phase) + '○'.repeat(l.k - l.phase)) : '', ' ' + l.phase + ' of ' + l.k)] : null,
    l ? ['syncs', plain(l.sync_epoch)] : null]), (o.groups || []).length ? table(['tensors', 'rate', 'parameters', 'trained by'],
    o.groups.map(function (g) {
      return [g.match + ' (' + plain(g.tensors) + ')', g.frozen ? NONE : plain(g.lr_now), plain(g.parameters),
              g.frozen ? 'nothing: frozen' : g.rule + (g.clip ? '' : ', not clipped')];
    })) : '');
}

/* ---- tensors ---- */

/* A letter of a strip (server/core/health.h): its colour, and its meaning in words. */
var LETTERS = '.-0123456789abcd!', ALARMS = { dead: 1, stuck: 1, exploding: 1 };

function level(letter) { return LETTERS.indexOf(letter) - 2; }

function ratioOf(letter) {
  var l = level(letter);
  return letter === '.' ? 'no gradient' : letter === '-' ? 'all gradients 0' : letter === '!' ? 'Inf or NaN'
    : l === 0 ? 'a step below 1e-6 of the weights' : 'a step of ' + plain(+Math.pow(10, -6.5 + l / 2).toPrecision(1)) + (l === 13 ? ' or more' : '') + ' of the weights';
}

function colourOfLook(letter) {
  return letter === '.' ? 'transparent' : letter === '-' ? 'var(--zero)' : letter === '!' ? 'var(--nan)' : 'var(--u' + level(letter) + ')';
}

/* One element per tensor, whose background has a stripe per look; neighbouring looks of one colour share a stripe. */
function strip(t, columns) {
  var n = Math.max(t.strip.length, 24), stops = [], i, from;
  for (i = 0; i < t.strip.length; i = from) {
    for (from = i; from < t.strip.length && t.strip[from] === t.strip[i];) from++;
    stops.push(colourOfLook(t.strip[i]) + ' ' + 100 * i / n + '% ' + 100 * from / n + '%');
  }
  stops.push('transparent ' + 100 * t.strip.length / n + '%');
  return h('div', { 'class': 'strip', role: 'img', style: 'background:linear-gradient(90deg,' + stops.join(',') + ')',
                    'data-strip': t.strip, 'aria-label': 'in ' + t.strip.length + ' looks up to step ' + columns[columns.length - 1] + ', lastly ' + ratioOf(t.strip.slice(-1)) });
}

/* The meaning of the stripe under the pointer, as its tooltip. */
function tellStripe(event) {
  var text = event.target.getAttribute && event.target.getAttribute('data-strip'), box, i;
  if (!text) return;
  box = event.target.getBoundingClientRect();
  i = Math.floor((event.clientX - box.left) / box.width * Math.max(text.length, 24));
  event.target.title = i < text.length ? 'from step ' + status_.health.columns[i] + ': ' + ratioOf(text[i]) : '';
}

function putTensors(s) {
  var all = s.health, columns = ['tensor', 'its looks', 'state', 'update / weights', 'gradient', 'weights', 'gradients 0'];
  parts.tensorsSection.hidden = !all || !all.tensors;
  if (!all || !all.tensors || parts.tensors.shows === all.step) return;
  parts.tensors.shows = all.step;
  fill(parts.tensors, h('thead', {}, h('tr', {}, columns.map(function (t, i) { return h('th', { scope: 'col', 'class': i > 2 ? 'number' : null }, t); }))),
    h('tbody', {}, all.tensors.map(function (t) {
      return h('tr', { 'class': ALARMS[t.state] ? 'slow' : null, 'data-tensor': t.name }, h('th', { scope: 'row', title: t.name }, t.name),
        h('td', {}, strip(t, all.columns)), h('td', {}, h('span', { 'class': ALARMS[t.state] ? 'why' : null, title: t.reason || null }, t.state + (t.reason ? ' since step ' + t.since_step : ''))),
        [t.update_ratio, t.gradient_norm, t.weight_norm].map(function (x) { return h('td', { 'class': 'number' }, isNumber(x) ? String(+x.toPrecision(3)) : NONE); }),
        h('td', { 'class': 'number' }, percent(t.zero_share)));
    })));
  parts.tensorsNote.textContent = 'Looks at steps ' + all.columns[0] + ' to ' + all.step + ', left to right' +
    (all.omitted ? '; ' + all.omitted + ' more tensors have no row' : '') +
    '. The colour shows the size of a step relative to the weights; 0.001 is usual. Gradients are those that the optimizer gets: the mean of all workers, clipped.';
}

var SCALE = [['0', 'below 1e-6'], ['3', '1e-5'], ['5', '1e-4'], ['7', '0.001, usual'], ['9', '0.01'], ['b', '0.1'], ['d', '1 or more'],
  ['-', 'all gradients 0'], ['!', 'Inf or NaN'], ['.', 'no gradient']];

function putStaleness(s) {
  var st = s.sync.staleness, most = Math.max.apply(null, st.histogram.concat([1]));
  if (s.sync.mode === 'bsp') {
    fill(parts.staleness, h('p', {}, 'None: in bsp all gradients of a round are of the same weights.'));
    return;
  }
  fill(parts.staleness, h('div', { 'class': 'histogram' }, st.histogram.map(function (n, i) {
    var upto = i ? Math.pow(2, i - 1) : 0, last = i + 1 === st.histogram.length, next = i ? 2 * upto : 1;
    var bound = st.bound && upto <= st.bound && (next > st.bound || last);
    return h('div', { 'class': bound ? 'bound' : null, title: n + ' pushes' }, h('i', { style: 'height:' + 5.5 * n / most + 'rem' }), last ? 'more' : '≤' + upto);
  })), h('p', {}, 'mean ' + plain(st.mean) + ', most ' + plain(st.max) + (st.bound ? ', refused above ' + st.bound : ', no bound')));
}

function putCheckpoint(s) {
  var c = s.checkpoint;
  fill(parts.checkpoint, c ? pairs([['newest', 'last_step' in c ? 'of step ' + c.last_step : 'number ' + c.number], ['age', duration(c.age_seconds)], ['took', duration(c.duration_seconds)],
    ['this shard\'s file', bytes(c.shard_bytes)], ['in', c.dir], ['now', c.failing ? 'failing' : c.saving ? 'one is being made' : 'none is being made']])
    : h('p', {}, s.servers.length ? 'None: checkpoint.dir is not set.' : 'On the page of server 0.'));
}

function isQuiet(line) { return line.level !== 'warn' && line.level !== 'error'; }

/* Newest first; of lines of one kind ("checkpoint.") in a row the newest stands for all. */
function putLog() {
  var rows = [];
  log.slice().reverse().forEach(function (line) {
    var last = rows[rows.length - 1], group = line.id.split('.')[0];
    if (group === 'checkpoint' && last && last.group === group && isQuiet(last.line) && isQuiet(line)) last.more++;
    else rows.push({ line: line, group: group, more: 0 });
  });
  fill(parts.log, rows.map(function (row) {
    var line = row.line;
    return h('tr', { 'class': line.level }, h('td', {}, clock(line.ts)), h('td', {}, line.id),
             h('td', {}, line.text, row.more ? h('span', { 'class': 'more' }, ' and ' + row.more + ' more lines of checkpoints before it') : null));
  }));
}

/* ---- the page ---- */

var parts = {};

function section(title, body, extra) { return h('section', {}, h('div', { 'class': 'bar-of-title' }, h('h2', {}, title), extra || []), body); }

function wide(name) { parts[name] = h('table', {}); return h('div', { 'class': 'wide list', tabindex: '0' }, parts[name]); }

function part(name) { parts[name] = h('div', { 'class': 'wide' }); return parts[name]; }

/* A chart is as wide as its cell, also when the other charts come to stand beside it. */
var watcher = new ResizeObserver(function () {
  CURVES.forEach(function (curve) {
    if (curve.graph && curve.chart.clientWidth && curve.graph.width_ !== curve.chart.clientWidth) curve.graph.resize();
  });
  if (parts.cards) layTiles();
});

function build() {
  parts.head = h('header', {});
  parts.alerts = h('ul', { 'class': 'alerts', role: 'alert' });
  parts.cards = h('div', { 'class': 'cards' });
  parts.news = h('span', { 'class': 'stale', role: 'status' });
  parts.log = h('table', {});
  parts.marks = h('div', { 'class': 'key marks' });
  document.body.addEventListener('pointermove', tellStripe);
  CURVES.forEach(function (curve, i) {
    curve.chart = h('div', { 'class': 'chart' });
    curve.legend = h('div', { 'class': 'legend' });
    curve.section = section(curve.title, [curve.chart, curve.legend], i ? [] : [
      toggle('log', function () { return logY; }, function (on) { logY = on; }),
      toggle('by step', function () { return byStep; }, function (on) { byStep = on; })]);
    curve.section.hidden = true;
    watcher.observe(curve.chart);
  });
  fill(document.body, parts.head, parts.alerts, parts.cards,
    h('div', { 'class': 'charts' }, CURVES.map(function (c) { return c.section; })), parts.marks,
    section('Workers', [wide('workers'), h('div', { 'class': 'key' }, PHASES.map(function (p) {
      return h('span', {}, h('i', { 'class': p }), { computing: 'computes, reads data', sending: 'its push arrives', waiting: 'waits for the others', served: 'the server\'s turn' }[p]);
    }))]),
    parts.tensorsSection = section('Tensors', [wide('tensors'), h('div', { 'class': 'key' }, 'update / weights:', SCALE.map(function (x) {
      return h('span', {}, h('i', { 'class': x[0] === '.' ? 'blank' : null, style: 'background:' + colourOfLook(x[0]) }), x[1]);
    })), parts.tensorsNote = h('p', { 'class': 'note' })]),
    h('div', { 'class': 'two' }, section('Servers', part('servers')), section('This shard', part('shard')),
      section('Optimizer', part('optimizer')), section('Checkpoints', part('checkpoint')), section('Staleness', part('staleness'))),
    section('Log', h('div', { 'class': 'log', tabindex: '0' }, parts.log)),
    h('footer', {}, saved ? [] : [h('a', { href: '/status' }, 'status as JSON'), ' · ', h('a', { href: '/metrics' }, 'metrics'), ' · '],
      'psd ' + status_.version));
}

function put(s) {
  var first = !status_;
  status_ = s;
  if (first) build();
  putHead(s); putCards(s); putWorkers(s); putTensors(s); putServers(s); putOptimizer(s); putStaleness(s); putCheckpoint(s);
}

function addPoint(s) {
  var own = s.shards[0], last = points[points.length - 1];
  if (last && s.now < last.ts + 0.2) return;
  points.push({ ts: s.now, step: s.progress.step, samples: s.progress.samples, received_bytes: own.received_bytes, sent_bytes: own.sent_bytes,
                loss: s.loss.train, val_loss: s.loss.val, lr: s.optimizer.lr_now, report: s.report ? s.report.value : null });
  if (points.length > MAX_POINTS) points = points.filter(function (p, i) { return i % 2 === 0 || i + 1 === points.length; });
}

/* ---- news ---- */

function getJson(path) {
  return fetch(path, { cache: 'no-store' }).then(function (answer) {
    if (!answer.ok) throw new Error(answer.status);
    return answer.json();
  });
}

function takeHistory(all) {
  points = all.rows.map(function (row) {
    var point = {};
    all.columns.forEach(function (name, i) { point[name] = row[i]; });
    return point;
  });
  log = all.events;
}

function loadHistory(lines) {
  if (asking) return;
  asking = true;
  getJson('/history').then(function (all) {
    takeHistory(all);
    logLines = lines;
    if (status_) { putCards(status_); putLog(); putCharts(false); }
  }).catch(function () {}).then(function () { asking = false; });
}

function onStatus(s, lines) {
  var restarted = status_ && s.uptime_seconds < status_.uptime_seconds;
  heard = Date.now();
  ended = s.state === 'finished';
  put(s);
  addPoint(s);
  if (lines !== logLines || restarted) loadHistory(lines);
  putCharts(false);
  if (ended && source) source.close();
}

function poll() {
  getJson('/status').then(function (s) { onStatus(s, Math.floor(Date.now() / 10000)); }).catch(function () {});
}

function follow() {
  source = new EventSource('/events');
  source.onmessage = function (event) { onStatus(JSON.parse(event.data), +event.lastEventId); };
  source.onerror = function () { /* refused, for too many follow already: ask now and then instead */
    if (source.readyState === EventSource.CLOSED && !polling && !ended) polling = setInterval(poll, POLL_MS);
  };
}

/* What psdctl status --html has kept of a moment. */
function show(all) {
  takeHistory(all.history);
  put(all.status);
  putLog();
  putCharts(false);
  parts.news.className = '';
  parts.news.textContent = 'as it was on ' + new Date(all.saved * 1000).toLocaleString() + ', at ' + all.from;
}

function tellSilence() {
  var silent = Date.now() - heard;
  if (status_ && parts.news)
    parts.news.textContent = ended ? 'the server has ended' : silent > STALE_MS ? 'no news for ' + Math.round(silent / 1000) + ' s' : '';
}

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', function () { putCharts(true); });
if (saved) show(JSON.parse(saved.textContent));
else {
  follow();
  setInterval(tellSilence, 1000);
}
})();
