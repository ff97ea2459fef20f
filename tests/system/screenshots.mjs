// screenshots.mjs URL DIR SLOW REPORT MOMENT VICTIM - what people see: the dashboard of a running job at URL in a browser, light,
// dark, on a narrow screen and without scripts; a comparison's REPORT; and a MOMENT that psdctl status --html has kept.
// Each becomes a picture in DIR. Ends with a sentence and 1 when the page shows other values than /status, does not blame
// the worker SLOW for its computing, is wider than its screen, or asks for anything elsewhere.
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

const [url, dir, slow, report, moment, victim] = process.argv.slice(2);
const browser = spawn('chromium', ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync', '--hide-scrollbars',
  '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1', `--user-data-dir=${join(dirname(moment), 'browser')}`, '--remote-debugging-pipe'],
  { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
const [to, from] = [browser.stdio[3], browser.stdio[4]];

function end(sentence) {
  if (sentence) console.error(`screenshots: ${sentence}`);
  browser.once('exit', () => process.exit(sentence ? 1 : 0));
  call('Browser.close').catch(() => {});
  setTimeout(() => browser.kill('SIGKILL'), 5000);
}
setTimeout(() => end('the browser has not done it in 200 s'), 200000);

// ---- the browser's protocol: JSON with a zero behind it ----

const answers = new Map(), sessions = new Map();
let number = 0, rest = '';
from.setEncoding('utf8');
from.on('data', text => {
  const parts = (rest + text).split('\0');
  rest = parts.pop();
  for (const message of parts.map(part => JSON.parse(part)))
    if (message.id) {
      const { resolve, reject } = answers.get(message.id);
      answers.delete(message.id);
      message.error ? reject(new Error(message.error.message)) : resolve(message.result);
    } else sessions.get(message.sessionId)?.(message);
});

function call(method, params = {}, sessionId) {
  const id = ++number;
  to.write(JSON.stringify({ id, method, params, sessionId }) + '\0');
  return new Promise((resolve, reject) => answers.set(id, { resolve, reject }));
}

const asked = []; // addresses, by all pages

async function open(address, { width = 1200, dark = false, scripts = true } = {}) {
  const { targetId } = await call('Target.createTarget', { url: 'about:blank' });
  const { sessionId } = await call('Target.attachToTarget', { targetId, flatten: true });
  const page = (method, params) => call(method, params, sessionId);
  let loaded;
  const load = new Promise(resolve => { loaded = resolve; });
  sessions.set(sessionId, message => {
    if (message.method === 'Network.requestWillBeSent') asked.push(message.params.request.url);
    if (message.method === 'Page.loadEventFired') loaded();
    if (message.method === 'Runtime.exceptionThrown') end(`${address}: ${message.params.exceptionDetails.exception?.description}`);
    if (message.method === 'Log.entryAdded' && message.params.entry.level === 'error') end(`${address}: ${message.params.entry.text}`);
  });
  for (const domain of ['Page', 'Network', 'Runtime', 'Log']) await page(`${domain}.enable`);
  await page('Emulation.setDeviceMetricsOverride', { width, height: 900, deviceScaleFactor: 1, mobile: false });
  await page('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }] });
  await page('Emulation.setScriptExecutionDisabled', { value: !scripts });
  await page('Page.navigate', { url: address });
  await load;
  const evaluate = async expression => {
    const { result, exceptionDetails } = await page('Runtime.evaluate', { expression, returnByValue: true, awaitPromise: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description}`);
    return result.value;
  };
  const shoot = async name => {
    const { cssContentSize } = await page('Page.getLayoutMetrics');
    if (cssContentSize.width > width) throw new Error(`${name} is ${cssContentSize.width} wide, its screen ${width}`);
    const { data } = await page('Page.captureScreenshot', { captureBeyondViewport: true,
      clip: { x: 0, y: 0, width, height: Math.ceil(cssContentSize.height), scale: 1 } });
    writeFileSync(join(dir, `${name}.png`), Buffer.from(data, 'base64'));
  };
  return { evaluate, shoot, page, close: () => call('Target.closeTarget', { targetId }) };
}

// Until it is true; the browser looks at it between two frames.
async function await_(tab, what, expression) {
  for (const begin = Date.now(); Date.now() < begin + 60000; await new Promise(resolve => setTimeout(resolve, 50)))
    if (await tab.evaluate(expression)) return;
  throw new Error(`there is no ${what}`);
}

// ---- what must be there ----

const CURVES = `[...document.querySelectorAll('.chart canvas')].filter(c => c.width > 100).length >= 3`;
const BLAME = `[...document.querySelectorAll('tr.slow')].length === 1 &&
  document.querySelector('tr.slow').dataset.worker === '${slow}' &&
  document.querySelector('tr.slow .why').textContent === 'computes for long' &&
  document.querySelector('.alerts').textContent.includes('rounds wait for worker ${slow} ')`;

// What stands in the page, and what /status has, whose snapshots come four times a second: they are of one moment when the
// steps are the same.
const SHOWN = `(async () => {
  for (let tries = 0; tries < 400; tries++) {
    const s = await (await fetch('/status', { cache: 'no-store' })).json();
    const cards = Object.fromEntries([...document.querySelectorAll('.card')].map(c => [c.lastChild.textContent, c.firstChild.textContent]));
    if (cards.step !== String(s.progress.step)) { await new Promise(r => setTimeout(r, 20)); continue; }
    const cell = (row, i) => row.cells[i].textContent, short = x => String(+x.toPrecision(4));
    const wrong = [];
    const same = (what, is, should) => { if (is !== should) wrong.push(what + ' is ' + is + ', /status has ' + should); };
    same('state', document.getElementById('state').textContent.slice(2), s.state);
    same('job', document.querySelector('h1').textContent, s.job);
    same('loss', cards['training loss'], short(s.loss.train));
    same('learning rate', cards['learning rate'], short(s.optimizer.lr_now));
    same('phase', document.querySelector('.phase').parentNode.textContent.slice(-6), s.optimizer.lookahead.phase + ' of ' + s.optimizer.lookahead.k);
    same('workers', document.querySelectorAll('tr[data-worker]').length, s.workers.length);
    for (const w of s.workers) {
      const row = document.querySelector('tr[data-worker="' + w.id + '"]');
      same('name of ' + w.id, cell(row, 11), w.name);
      same('state of ' + w.id, cell(row, 1), w.state);
      same('waited for ' + w.id, cell(row, 2), Math.round(w.awaited_share * 100) + ' %');
      same('why slow ' + w.id, row.querySelector('.why').textContent, w.slow_reason === 'compute' ? 'computes for long' : '');
      same('loss of ' + w.id, cell(row, 10), short(w.loss));
    }
    const h = s.health, rows = [...document.querySelectorAll('tr[data-tensor]')];
    same('tensors', rows.map(r => cell(r, 0)).join(), h.tensors.map(t => t.name).join());
    h.tensors.forEach((t, i) => {
      same('state of ' + t.name, cell(rows[i], 2), t.state);
      same('update of ' + t.name, cell(rows[i], 3), String(+t.update_ratio.toPrecision(3)));
      same('gradients of ' + t.name + ' that are 0', cell(rows[i], 6), Math.round(t.zero_share * 100) + ' %');
      same('looks of ' + t.name, rows[i].querySelector('.strip').dataset.strip, t.strip);
      if (!/^in \\d+ looks up to step \\d+, lastly a step /.test(rows[i].querySelector('.strip').getAttribute('aria-label')))
        wrong.push('the strip of ' + t.name + ' has no words');
    });
    return wrong.join('; ') || 'same';
  }
  return 'no step of the page is one of /status';
})()`;

async function look(name, address, how, checks) {
  const tab = await open(address, how);
  for (const [what, expression] of checks) await await_(tab, `${what} in ${name}`, expression);
  return tab;
}

// The curves run on, and so do the rates that come of them.
const RATES = `[...document.querySelectorAll('.card')].some(c => c.lastChild.textContent === 'steps/s' && parseFloat(c.firstChild.textContent) > 0)`;

// Of a comparison with a rule that failed to train, in a sweep: the axes span what trained and is shown, names do not overlap,
// every seed has its dot, charts fit their cells, and a table that goes on to the right says so.
const REPORT = `(() => {
  const D = JSON.parse(document.getElementById('data').textContent), wrong = [], all = s => [...document.querySelectorAll(s)];
  const must = (good, what) => { if (!good) wrong.push(what); };
  const trained = k => !D.rules[k].failure && D.rules[k].chosen, losses = document.getElementById('chart1');
  const most = () => Math.max(...D.losses.flatMap((c, k) => trained(k) ? c.m : []));
  must(D.rules.some(r => r.failure === 'failed to train'), 'no rule failed to train');
  must(all('.keys em').length > 0, 'no key says who failed');
  must(+losses.dataset.high <= most() * 1.2, 'the axis of losses goes to ' + losses.dataset.high + ', and what trained to ' + most());
  must(all('figure').length === 4, all('figure').length + ' charts');
  for (const f of all('figure')) {
    must(f.querySelector('svg').getBoundingClientRect().width <= f.getBoundingClientRect().width + 1, f.id + ' is wider than its cell');
    const at = [...f.querySelectorAll('.n:not(.y)')].map(t => t.getBoundingClientRect().top).sort((a, b) => a - b);
    for (let i = 1; i < at.length; i++) must(at[i] - at[i - 1] >= 10, 'names overlap in ' + f.id);
  }
  must(all('#chart0 .tl').length === 1, 'the target has no label');
  const chosen = D.rules.map((r, k) => k).filter(k => D.rules[k].chosen);
  must(all('#chart2 circle, #chart2 .cross').length === chosen.length * D.rules[0].finals.length, 'not a dot for each seed');
  must(all('#chart3 .ring').length === chosen.filter(k => !D.rules[k].failure).length, 'not a ring for each chosen rate');
  must(document.querySelector('.advice').textContent.includes('widen it'), 'no advice to widen the grid');
  const high = +losses.dataset.high, worst = chosen.filter(trained).sort((a, b) => Math.max(...D.losses[b].m) - Math.max(...D.losses[a].m))[0];
  document.querySelector('.keys button[data-k="' + worst + '"]').click();
  must(+losses.dataset.high < high, 'the axis stays when the highest curve is hidden');
  document.querySelector('.keys button[data-k="' + worst + '"]').click();
  all('.tools button').find(b => b.textContent === 'by time').click();
  must(losses.textContent.includes('seconds'), 'there is no axis of time');
  all('.tools button').find(b => b.textContent === 'by time').click();
  const table = document.querySelector('.scroll'), cut = table.scrollWidth > table.clientWidth + 1;
  must(cut !== document.querySelector('.more').hidden, 'the table is cut, and nobody says so');
  return wrong.join('; ');
})()`;

// Charts are no wider than their cells, tiles stand in rows without one alone, and vertical lines have a legend.
const LAYOUT = `(() => {
  const wrong = [], all = s => [...document.querySelectorAll(s)], wide = e => e.getBoundingClientRect().width;
  for (const chart of all('.chart'))
    for (const canvas of chart.querySelectorAll('canvas'))
      if (wide(canvas) > wide(chart.parentNode) + 1) wrong.push('a chart is ' + wide(canvas) + ' wide, its cell ' + wide(chart.parentNode));
  for (const strip of all('.strip')) {
    const box = strip.getBoundingClientRect();
    if (box.width < 100 || box.right > innerWidth) wrong.push('a strip is from ' + box.left + ' to ' + box.right + ' of ' + innerWidth);
    if (!getComputedStyle(strip).backgroundImage.includes('rgb(')) wrong.push('a strip has no colours');
  }
  if (!all('.strip').length || !['0.001, usual', 'all gradients 0'].every(t => all('.key').some(k => k.textContent.includes(t))))
    wrong.push('nothing says what the colours of strips mean');
  const rows = {};
  for (const card of all('.card')) (rows[Math.round(card.getBoundingClientRect().top)] ||= []).push(card);
  for (const row of Object.values(rows))
    if (row.length === 1 && wide(row[0]) < 0.9 * wide(row[0].parentNode)) wrong.push('a tile stands alone: ' + row[0].textContent);
  for (const label of ['epoch', 'left'])
    if (!all('.card').some(c => c.lastChild.textContent === label && /\\d/.test(c.firstChild.textContent))) wrong.push('no tile says ' + label);
  if (!document.querySelector('.marks').textContent.includes('a worker joined')) wrong.push('vertical lines have no legend');
  if (document.querySelector('.log').textContent.split('checkpoint.').length > 6) wrong.push('lines of checkpoints fill the log');
  return wrong.join('; ');
})()`;
const GONE = `/^⚠? ?2 of 3 workers: worker \\d+ \\(.+\\) is lost since /.test(document.querySelector('.alerts li')?.textContent || '')`;

const live = [['curve', CURVES], ['rate', RATES], [`worker ${slow} that is blamed`, BLAME]];
try {
  let tab = await look('light', url, {}, live);
  const shown = await tab.evaluate(SHOWN);
  if (shown !== 'same') throw new Error(shown);
  await tab.shoot('light');
  await tab.evaluate(`[...document.querySelectorAll('button')].filter(b => /^(log|by step)$/.test(b.textContent)).forEach(b => b.click())`);
  await tab.shoot('light-by-step');
  await tab.close();
  for (const [name, how] of [['dark', { dark: true }], ['narrow', { width: 400 }]]) {
    tab = await look(name, url, how, live);
    const wrong = await tab.evaluate(LAYOUT);
    if (wrong) throw new Error(`${name}: ${wrong}`);
    await tab.shoot(name);
    await tab.close();
  }
  tab = await open(url, { scripts: false });
  await tab.shoot('without-scripts');
  const { root } = await tab.page('DOM.getDocument', { depth: 0 });
  const { outerHTML } = await tab.page('DOM.getOuterHTML', { nodeId: root.nodeId });
  if (!outerHTML.includes(`rounds wait for worker ${slow} `) || !outerHTML.includes('<polyline') || outerHTML.includes('<canvas'))
    throw new Error('without scripts, the page lacks the curve, or does not blame the slow worker');
  await tab.close();
  tab = await open(url, { scripts: false, width: 400, dark: true });
  await tab.shoot('without-scripts-narrow');
  await tab.close();
  tab = await look('moment', `file://${moment}`, {}, live);
  if (!(await tab.evaluate(`document.querySelector('header').textContent.includes('as it was on ')`)))
    throw new Error('the moment does not say when it was');
  await tab.shoot('moment');
  await tab.close();
  for (const [name, how] of [['comparison', {}], ['comparison-dark', { dark: true }], ['comparison-narrow', { width: 400 }]]) {
    tab = await open(`file://${report}`, how);
    const empty = await tab.evaluate(`[...document.querySelectorAll('svg')].filter(s => s.viewBox.baseVal.height > 100 && !s.querySelector('.l')?.getTotalLength() && !s.querySelector('circle')).length`);
    if (empty) throw new Error(`${name}: a chart is empty`);
    const wrong = await tab.evaluate(REPORT);
    if (wrong) throw new Error(`${name}: ${wrong}`);
    await tab.shoot(name);
    await tab.close();
  }
  process.kill(+victim, 'SIGKILL');
  for (const [name, how] of [['gone', { dark: true }], ['gone-narrow', { width: 400 }]]) {
    tab = await look(name, url, how, [['curve', CURVES], ['worker that is lost', GONE]]);
    await tab.shoot(name);
    await tab.close();
  }
  const elsewhere = asked.filter(address => !address.startsWith(`${url}/`) && address !== `file://${report}` && address !== `file://${moment}`);
  if (!asked.length || elsewhere.length) throw new Error(`asked elsewhere: ${elsewhere[0]} of ${asked.length} addresses`);
  console.log(`screenshots: ok, ${asked.length} requests, none elsewhere`);
  end();
} catch (error) {
  end(error.message);
}
