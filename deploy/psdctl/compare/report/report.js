/* report.js - the charts of a comparison's page: drawn from its data as wide as the window allows, and again when a curve is hidden or
 * another axis is asked for. Axes span what has trained and is shown; what failed never stretches them. */
(function () {
'use strict';
var D = JSON.parse(document.getElementById('data').textContent), FAR = 1e9, LOOKS = 0;
var hidden = D.rules.map(function (r) { return !r.chosen; }), byTime = false, asError = null;

function all(s, e) { return [].slice.call((e || document).querySelectorAll(s)); }
function esc(t) { return String(t).replace(/[&<>"]/g, function (c) { return '&#' + c.charCodeAt(0) + ';'; }); }
function isNum(x) { return typeof x === 'number' && isFinite(x); }
function short(x) { return String(+x.toPrecision(4)); }
function trained(k) { return !D.rules[k].failure; }
function shown(k) { return !hidden[k]; }
function kind(k) { return 'k h' + k % 8 + ' d' + Math.floor(k / 8) % 4 + (trained(k) ? '' : ' bad'); }

/* ---- axes ---- */

/* The share of wrong answers, on a logarithmic axis, where most answers are right. */
function isShare() { return !D.smaller && D.looks.length > 0; }
function finals() {
  var out = [];
  D.rules.forEach(function (r, k) { if (shown(k) && trained(k)) r.finals.forEach(function (v) { if (isNum(v)) out.push(v); }); });
  return out;
}
function errorAxis() {
  if (!isShare()) return false;
  if (asError !== null) return asError;
  return finals().some(function (v) { return v >= 0.9; });
}

/* What a curve spans: of those that are shown the ones that trained; when none has, all that are shown. */
function fit(values, ends, smaller) {
  var v = values.slice().sort(function (a, b) { return a - b; }), cut = Math.floor(v.length / 12);
  var low = smaller ? v[0] : v[cut], high = smaller ? v[v.length - 1 - cut] : v[v.length - 1];
  ends.forEach(function (e) { low = Math.min(low, e); high = Math.max(high, e); });
  return [low, high];
}

function nice(span, n) {
  var raw = span / n, p = Math.pow(10, Math.floor(Math.log10(raw))), m = raw / p;
  return p * (m > 5 ? 10 : m > 2 ? 5 : m > 1 ? 2 : 1);
}

function linear(low, high, n) {
  var step = nice(high - low, n), out = [], i;
  for (i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12) + 1e-300; i++) out.push(+(i * step).toPrecision(12));
  return out;
}

function ticks(axis, n) {
  var out = [], p, fine = [1, 2, 5], many = Math.log10(axis.high / axis.low) > 3 ? [1] : fine;
  if (!axis.log) return linear(axis.low, axis.high, n);
  for (p = Math.floor(Math.log10(axis.low)); p <= Math.log10(axis.high); p++)
    many.forEach(function (m) { var v = +(m * Math.pow(10, p)).toPrecision(3); if (v >= axis.low && v <= axis.high) out.push(v); });
  return out.length > 2 ? out : linear(axis.low, axis.high, n);
}

function pad(axis) {
  if (axis.log) { axis.low /= 1.1; axis.high *= 1.15; return axis; }
  var d = axis.high > axis.low ? 0.05 * (axis.high - axis.low) : Math.abs(axis.high) * 0.01 + 1e-9;
  axis.low -= d; axis.high += d;
  return axis;
}

function place(axis, v, from, to) {
  var share = axis.log ? Math.log(Math.max(v, 1e-300) / axis.low) / Math.log(axis.high / axis.low) : (v - axis.low) / (axis.high - axis.low);
  return +(from + (to - from) * Math.max(-1, Math.min(2, share))).toFixed(1);
}

/* ---- a chart ---- */

function cutName(name, room) {
  name = name.replace(/lr=/g, '').replace(/, (k|alpha|pullback)=[^,)]*/g, '');
  return name.length <= room ? name : name.slice(0, Math.max(1, room - 1)) + '…';
}

/* Names at the ends of lines, moved apart where they would overlap. */
function spread(labels, top, bottom) {
  var gap = 12, i;
  labels.sort(function (a, b) { return a.y - b.y; });
  for (i = 0; i < labels.length; i++) labels[i].at = Math.max(labels[i].y, i ? labels[i - 1].at + gap : top + 4);
  for (i = labels.length; i-- > 0;) labels[i].at = Math.min(labels[i].at, i + 1 < labels.length ? labels[i + 1].at - gap : bottom);
  return labels;
}

function frame(width, title, body, height) {
  return '<svg viewBox="0 0 ' + width + ' ' + height + '" width="' + width + '" height="' + height + '" role="img" aria-label="' + esc(title) + '">' + body + '</svg>';
}

function yTicks(axis, L, R, y0, y1, write) {
  return ticks(axis, 6).map(function (v) {
    var y = place(axis, v, y0, y1);
    return '<path class="g" d="M' + L + ' ' + y + 'H' + R + '"/><text class="y" x="' + (L - 6) + '" y="' + (y + 4) + '">' + write(v) + '</text>';
  }).join('');
}

function curveChart(fig, width, curves, title, ofLoss) {
  var names = D.rules.length > 1, err = !ofLoss && errorAxis(), smaller = ofLoss || D.smaller || err;
  var room = names ? Math.min(170, Math.round(width * 0.3)) : 14, L = 56, R = width - room, T = 10, H = 330, B = 38;
  var value = function (v) { return err ? 1 - v : v; }, values = [], ends = [], least = FAR, xMax = 0;
  var ours = D.rules.map(function (r, k) { return k; }).filter(function (k) { return shown(k) && curves[k].m.length; });
  var good = ours.filter(trained), axis;
  good = good.length ? good : ours;
  good.forEach(function (k) {
    curves[k].m.forEach(function (m) { if (isNum(m)) { values.push(value(m)); if (value(m) > 0) least = Math.min(least, value(m)); } });
    ends.push(value(curves[k].m[curves[k].m.length - 1]));
    xMax = Math.max(xMax, curves[k][byTime ? 't' : 'x'].slice(-1)[0]);
  });
  values = values.filter(isNum);
  ends = ends.filter(isNum);
  if (!values.length) return '';
  axis = { log: smaller && least < FAR };
  if (axis.log) { values = values.map(function (v) { return Math.max(v, least / 2); }); ends = ends.map(function (v) { return Math.max(v, least / 2); }); }
  var span = fit(values, ends, smaller);
  axis.low = span[0]; axis.high = span[1];
  var target = !ofLoss && isNum(D.target) ? value(D.target) : NaN;
  if (isNum(target) && target > 0 && (axis.log ? target > axis.low / 3 && target < axis.high * 3 : target > axis.low - (axis.high - axis.low) && target < axis.high + (axis.high - axis.low))) {
    axis.low = Math.min(axis.low, target); axis.high = Math.max(axis.high, target);
  }
  pad(axis);
  var y0 = H - B, y1 = T, X = { low: 0, high: xMax || 1 };
  function y(v) { return place(axis, value(v), y0, y1); }
  function x(c, i) { return place(X, c[byTime ? 't' : 'x'][i], L, R); }
  var out = '<clipPath id="c' + fig.id + '"><rect x="' + L + '" y="' + T + '" width="' + (R - L + 5) + '" height="' + (y0 - T) + '"/></clipPath>';
  out += yTicks(axis, L, R, y0, y1, function (v) { return err ? short(v * 100) + ' %' : short(v); });
  linear(0, X.high, width < 480 ? 4 : 6).forEach(function (v) { out += '<text class="x" x="' + place(X, v, L, R) + '" y="' + (y0 + 16) + '">' + short(v) + '</text>'; });
  out += '<text class="x" x="' + (L + R) / 2 + '" y="' + (H - 4) + '">' + (byTime ? 'seconds' : 'steps') + '</text><g clip-path="url(#c' + fig.id + ')">';
  var labels = [];
  ours.slice().reverse().sort(function (a, b) { return trained(a) - trained(b); }).forEach(function (k) {
    var c = curves[k], last = c.m.length - 1, line = '', band = '', i, end = y(c.m[last]), inside = end >= T - 1 && end <= y0 + 1;
    for (i = 0; i <= last; i++) if (isNum(c.m[i])) line += x(c, i) + ' ' + y(c.m[i]) + ' ';
    if (c.lo.length && last) {
      for (i = 0; i <= last; i++) band += x(c, i) + ' ' + y(c.hi[i]) + ' ';
      for (i = last; i >= 0; i--) band += x(c, i) + ' ' + y(c.lo[i]) + ' ';
      band = '<path class="b" d="M' + band + 'Z"/>';
    }
    if (!last) {
      line = '<circle class="p" cx="' + x(c, 0) + '" cy="' + y(c.m[0]) + '" r="4"/>';
      if (c.lo.length) line += '<path class="l" d="M' + x(c, 0) + ' ' + y(c.lo[0]) + 'V' + y(c.hi[0]) + '"/>';
    } else line = '<path class="l" d="M' + line + '"/>';
    out += '<g class="' + kind(k) + '" data-k="' + k + '"><title>' + esc(D.rules[k].label) + '</title>' + band + line + '</g>';
    if (names && (trained(k) || inside)) labels.push({ k: k, x: x(c, last), y: Math.max(T, Math.min(y0, end)) });
  });
  out += '</g>';
  if (isNum(target)) {
    var ty = place(axis, target, y0, y1), off = ty < T ? ' ↑' : ty > y0 ? ' ↓' : '';
    if (!off) out += '<path class="t" d="M' + L + ' ' + ty + 'H' + R + '"/>';
    out += '<text class="tl" x="' + (L + 6) + '" y="' + Math.max(T + 12, Math.min(y0 - 4, ty - 4)) + '">target ' + short(D.target) + off + '</text>';
  }
  spread(labels, T, y0).forEach(function (l) {
    out += '<g class="' + kind(l.k) + '" data-k="' + l.k + '"><path class="lead" d="M' + l.x + ' ' + l.y + 'L' + (R + 8) + ' ' + l.at + '"/><text class="n" x="' + (R + 10) + '" y="' + (l.at + 4) + '">' +
      (trained(l.k) ? '' : '✕ ') + esc(cutName(D.rules[l.k].label, Math.floor((room - 12) / 6.3))) + '<title>' + esc(D.rules[l.k].label) + '</title></text></g>';
  });
  fig.dataset.low = axis.low; fig.dataset.high = axis.high; fig.dataset.log = axis.log ? 1 : 0;
  return frame(width, title, out, H);
}

/* A row for each rule, a dot for each seed. */
function strip(fig, width) {
  var err = errorAxis(), value = function (v) { return err ? 1 - v : v; };
  var ours = D.rules.map(function (r, k) { return k; }).filter(shown), good = ours.filter(trained), v = [], axis, names = Math.min(200, Math.round(width * 0.4));
  (good.length ? good : ours).forEach(function (k) { D.rules[k].finals.forEach(function (f) { if (isNum(f)) v.push(value(f)); }); });
  if (!v.length) return '';
  axis = pad({ low: Math.min.apply(null, v), high: Math.max.apply(null, v), log: (err || D.smaller) && Math.min.apply(null, v) > 0 });
  var L = names, R = width - 14, row = 18, H = ours.length * row + 40, out = '', y1 = 6;
  var few = ticks(axis, width < 480 ? 3 : 5);
  while (few.length > (width < 480 ? 4 : 7)) few = few.filter(function (t, i) { return i % 2 === 0; });
  few.forEach(function (t) {
    var x = place(axis, t, L, R);
    out += '<path class="g" d="M' + x + ' ' + y1 + 'V' + (H - 32) + '"/><text class="x" x="' + x + '" y="' + (H - 18) + '">' + (err ? short(t * 100) + ' %' : short(t)) + '</text>';
  });
  out += '<text class="x" x="' + width / 2 + '" y="' + (H - 3) + '">' + esc(err ? 'error (1 − ' + D.metric + ')' : D.metric) + ' at the end, each seed</text>';
  ours.forEach(function (k, i) {
    var y = y1 + i * row + row / 2, r = D.rules[k];
    out += '<g class="' + kind(k) + '" data-k="' + k + '"><text class="n y" x="' + (L - 10) + '" y="' + (y + 4) + '">' + esc(cutName(r.label, Math.floor((L - 12) / 6.3))) + '<title>' + esc(r.label) + '</title></text>';
    r.finals.forEach(function (f, s) {
      var x = isNum(f) ? place(axis, value(f), L, R) : R, out_ = x < L || x > R || !isNum(f);
      x = Math.max(L + 4, Math.min(R - 4, x));
      out += (out_ || r.failure ? '<path class="cross" d="M' + (x - 4) + ' ' + (y - 4) + 'l8 8m0 -8l-8 8">' : '<circle class="p" cx="' + x + '" cy="' + y + '" r="4" fill-opacity=".75">') +
        '<title>seed ' + (D.seed + s) + ': ' + (isNum(f) ? short(f) : 'no value') + (r.failure ? ', ' + r.failure : '') + '</title>' + (out_ || r.failure ? '</path>' : '</circle>');
    });
    out += '</g>';
  });
  return frame(width, fig.title_, out, H);
}

/* The metric against the learning rate, a line for each rule; the chosen rate has a ring. */
function rates(fig, width) {
  var err = errorAxis(), value = function (v) { return err ? 1 - v : v; }, groups = {}, v = [], xs = [], axis, X;
  D.rules.forEach(function (r, k) {
    var best = D.rules.findIndex(function (o) { return o.named === r.named && o.chosen; });
    if (hidden[best] || !(r.lr > 0)) return;
    (groups[r.named] = groups[r.named] || { best: best, at: [] }).at.push(k);
    xs.push(r.lr);
    if (isNum(r.score)) v.push(value(r.score));
  });
  if (!v.length) return '';
  var spanV = fit(v, [], err || D.smaller), L = 56, R = width - 18, T = 10, H = 330, y0 = H - 38, out = '';
  axis = pad({ low: spanV[0], high: spanV[1], log: (err || D.smaller) && Math.min.apply(null, v) > 0 });
  X = { low: Math.min.apply(null, xs) / 1.3, high: Math.max.apply(null, xs) * 1.3, log: true };
  out += '<clipPath id="c' + fig.id + '"><rect x="' + L + '" y="' + (T - 6) + '" width="' + (R - L) + '" height="' + (y0 - T + 12) + '"/></clipPath>';
  out += yTicks(axis, L, R, y0, T, function (t) { return err ? short(t * 100) + ' %' : short(t); });
  var few = ticks(X, 5);
  while (few.length > (width < 480 ? 5 : 9)) few = few.filter(function (t, i) { return i % 2 === 0; });
  few.forEach(function (t) { out += '<text class="x" x="' + place(X, t, L, R) + '" y="' + (y0 + 16) + '">' + t + '</text>'; });
  out += '<text class="x" x="' + (L + R) / 2 + '" y="' + (H - 4) + '">learning rate</text><g clip-path="url(#c' + fig.id + ')">';
  Object.keys(groups).forEach(function (name) {
    var g = groups[name], line = '', dots = '';
    g.at.sort(function (a, b) { return D.rules[a].lr - D.rules[b].lr; }).forEach(function (k) {
      var r = D.rules[k], x = place(X, r.lr, L, R), y = isNum(r.score) ? place(axis, value(r.score), y0, T) : NaN;
      var said = '<title>' + esc(r.label) + (r.failure ? ': ' + r.failure : ': ' + short(r.score)) + (r.edge ? ', best at the edge of the grid' : '') + '</title>';
      if (!isNum(y)) { dots += '<path class="cross" d="M' + (x - 4) + ' ' + (err || D.smaller ? T : y0 - 8) + 'l8 8m0 -8l-8 8">' + said + '</path>'; return; }
      line += (line ? 'L' : 'M') + x + ' ' + y;
      y = Math.max(T - 2, Math.min(y0, y));
      dots += '<circle class="p" cx="' + x + '" cy="' + y + '" r="4">' + said + '</circle>' + (r.chosen ? '<circle class="ring" cx="' + x + '" cy="' + y + '" r="7"/>' : '');
    });
    out += '<g class="' + kind(g.best) + '" data-k="' + g.best + '"><path class="l" d="' + (line || 'M0 0') + '"/>' + dots + '</g>';
  });
  return frame(width, fig.title_, out + '</g>', H);
}

/* The mean over the seeds of a range test, point by point; what is not finite is left out. */
function rise(range) {
  var out = [], longest = range.losses.reduce(function (a, b) { return b.lr.length > a.length ? b.lr : a; }, []);
  longest.forEach(function (lr, i) {
    var v = range.losses.map(function (s) { return s.loss[i]; }).filter(isNum);
    if (v.length) out.push({ lr: lr, loss: v.reduce(function (a, b) { return a + b; }, 0) / v.length });
  });
  return out;
}

/* The training loss while the rate rises, a line for each rule, bold between where it falls and where it diverges. */
function rises(fig, width) {
  var lines = [], v = [], xs = [];
  D.ranges.forEach(function (range, named) {
    var best = D.rules.findIndex(function (r) { return r.named === named && r.chosen; }), at = rise(range);
    if (best < 0 || hidden[best] || !at.length) return;
    lines.push({ best: best, at: at, from: isNum(range.falls_from) ? range.falls_from : 0, to: isNum(range.diverges_at) ? range.diverges_at : Infinity, says: range.optimizer + ': ' + range.outcome });
    at.forEach(function (p) { xs.push(p.lr); v.push(Math.min(p.loss, 1.3 * at[0].loss)); });
  });
  if (!v.length) return '';
  var L = 56, R = width - 18, T = 10, H = 330, y0 = H - 38, out = '', axis = pad({ low: Math.min.apply(null, v), high: Math.max.apply(null, v), log: false });
  var X = { low: Math.min.apply(null, xs), high: Math.max.apply(null, xs), log: true };
  out += '<clipPath id="c' + fig.id + '"><rect x="' + L + '" y="' + T + '" width="' + (R - L) + '" height="' + (y0 - T) + '"/></clipPath>';
  out += yTicks(axis, L, R, y0, T, short);
  var few = ticks(X, 5);
  while (few.length > (width < 480 ? 5 : 9)) few = few.filter(function (t, i) { return i % 2 === 0; });
  few.forEach(function (t) { out += '<text class="x" x="' + place(X, t, L, R) + '" y="' + (y0 + 16) + '">' + t + '</text>'; });
  out += '<text class="x" x="' + (L + R) / 2 + '" y="' + (H - 4) + '">learning rate</text><g clip-path="url(#c' + fig.id + ')">';
  lines.forEach(function (l) {
    var path = '', bold = '';
    l.at.forEach(function (p) {
      var to = place(X, p.lr, L, R) + ' ' + place(axis, p.loss, y0, T);
      path += (path ? 'L' : 'M') + to;
      if (p.lr >= l.from && p.lr <= l.to) bold += (bold ? 'L' : 'M') + to;
    });
    out += '<g class="' + kind(l.best) + '" data-k="' + l.best + '"><title>' + esc(l.says) + '</title><path class="l thin" d="' + path + '"/>' + (bold ? '<path class="l bold" d="' + bold + '"/>' : '') + '</g>';
  });
  return frame(width, fig.title_, out + '</g>', H);
}

/* ---- the page ---- */

function metricTitle() { return errorAxis() ? 'error (1 − ' + D.metric + ') on the test set, logarithmic' : D.metric + ' on the test set'; }

var charts = [
  { when: function () { return D.looks.some(function (c) { return c.m.length; }); }, title: metricTitle, draw: function (f, w) { return curveChart(f, w, D.looks, f.title_, false); } },
  { when: function () { return true; }, title: function () { return 'training loss, logarithmic'; }, draw: function (f, w) { return curveChart(f, w, D.losses, f.title_, true); } },
  { when: function () { return true; }, title: function () { return 'how the seeds end'; }, draw: strip },
  { when: function () { return D.swept; }, title: function () { return (errorAxis() ? 'error' : D.metric) + ' by learning rate, chosen on ' + D.chosen_on; }, draw: rates },
  { when: function () { return D.ranges && D.ranges.some(function (r) { return rise(r).length; }); }, title: function () { return 'range tests: training loss while the learning rate rises'; }, draw: rises }
];

function hot(k, on) {
  all('.charts svg').forEach(function (s) { s.classList.toggle('pick', on); });
  all('.charts .k[data-k="' + k + '"]').forEach(function (g) { g.classList.toggle('hot', on); });
}

function watch(e) {
  e.addEventListener('mouseenter', function () { hot(e.dataset.k, true); });
  e.addEventListener('mouseleave', function () { hot(e.dataset.k, false); });
}

function draw() {
  charts.forEach(function (c) {
    if (!c.figure) return;
    c.figure.title_ = c.title();
    c.figure.firstChild.textContent = c.figure.title_;
    c.figure.lastChild.innerHTML = c.draw(c.figure, Math.max(280, c.figure.clientWidth)) || '<p class="dim">Nothing to draw: no run that is shown has a value.</p>';
    all('[data-k]', c.figure).forEach(watch);
  });
  hint();
}

/* Whether the table is cut at the right, which nobody sees. */
function hint() {
  var table = document.querySelector('.scroll'), cut = table.scrollWidth > table.clientWidth + 1;
  document.querySelector('.more').hidden = !cut;
  table.classList.toggle('cut', cut && table.scrollLeft + table.clientWidth < table.scrollWidth - 4);
}

function tool(text, get, set) {
  var b = document.createElement('button');
  b.type = 'button';
  b.textContent = text;
  b.addEventListener('click', function () { set(!get()); draw(); all('.tools button').forEach(function (o) { o.setAttribute('aria-pressed', o.get_()); }); });
  b.get_ = get;
  b.setAttribute('aria-pressed', get());
  document.querySelector('.tools').append(b);
}

all('noscript').forEach(function (e) { e.remove(); });
charts.forEach(function (c, i) {
  if (!c.when()) return;
  c.figure = document.createElement('figure');
  c.figure.id = 'chart' + i;
  c.figure.append(document.createElement('figcaption'), document.createElement('div'));
  document.querySelector('.charts').append(c.figure);
});
tool('by time', function () { return byTime; }, function (on) { byTime = on; });
if (isShare()) tool('error, logarithmic', errorAxis, function (on) { asError = on; });
all('.keys button').forEach(function (b) {
  watch(b);
  b.addEventListener('click', function () {
    hidden[b.dataset.k] = b.classList.toggle('out');
    b.setAttribute('aria-pressed', !hidden[b.dataset.k]);
    draw();
  });
});
all('tr[data-k]').forEach(watch);
all('.scroll th').forEach(function (th, i) {
  th.addEventListener('click', function () {
    var up = th.getAttribute('aria-sort') !== 'ascending', body = document.querySelector('.scroll tbody');
    all('.scroll th').forEach(function (o) { o.removeAttribute('aria-sort'); });
    th.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    function v(r) { return r.cells[i].dataset.v; }
    all('tr', body).sort(function (a, b) { return v(a) === '' ? 1 : v(b) === '' ? -1 : (up ? 1 : -1) * (v(a) - v(b)); }).forEach(function (r) { body.append(r); });
  });
});
document.querySelector('.scroll').addEventListener('scroll', hint);
addEventListener('resize', draw);
draw();
})();
