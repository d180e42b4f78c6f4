// Opens reports in a browser and looks for what a reader would stumble over: errors in the console, requests, pages wider than the window,
// text without contrast, names that are missing. Writes screenshots at 1280 and 390 pixels in light and dark, to be looked at.
//
//     npm install --prefix /tmp/browser playwright-core        # nothing of it belongs into this repository
//     NODE_PATH=/tmp/browser/node_modules node tests/report.mjs report.html [CHROMIUM]
//
// CHROMIUM is the browser's program, `/usr/bin/chromium` if absent. Exits with 1 if something was found.

import { createRequire } from 'node:module';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const { chromium } = createRequire(import.meta.url)('playwright-core');
const [file, program = '/usr/bin/chromium'] = process.argv.slice(2);
if (!file || !existsSync(file)) {
  console.error('usage: node tests/report.mjs REPORT.html [CHROMIUM]');
  process.exit(2);
}

/** What is wrong with the page as it is laid out. */
function look() {
  const found = [];
  if (document.documentElement.scrollWidth > innerWidth) found.push('the page scrolls sideways');
  const levels = [...document.querySelectorAll('h1,h2,h3,h4')].map((heading) => Number(heading.tagName[1]));
  levels.reduce((before, level) => (level > before + 1 && found.push(`a heading of level ${level} after ${before}`), level), 0);
  const drawings = [...document.querySelectorAll('svg')].filter((svg) => svg.checkVisibility());
  if (!drawings.length) found.push('no chart is visible');
  for (const svg of drawings) {
    if (svg.getAttribute('role') !== 'img' || !svg.getAttribute('aria-label')) found.push('a chart has no name');
    const description = document.getElementById(svg.getAttribute('aria-describedby'));
    if (!description?.textContent.trim()) found.push('a chart has no description');
    const frame = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll('text')) {
      if (!text.textContent.trim()) continue;
      const box = text.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1) found.push(`"${text.textContent.trim()}" is cut off`);
      if (box.height < 10) found.push(`"${text.textContent.trim()}" is ${box.height.toFixed(1)} pixels high`);
    }
  }
  for (const image of document.images) if (!image.complete || !image.naturalWidth || !image.alt) found.push('a picture is missing, or its text');
  for (const box of document.querySelectorAll('.scroll')) if (box.tabIndex !== 0) found.push('a table cannot be scrolled by keys');
  const channels = (colour) => colour.match(/[\d.]+/g).slice(0, 3).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = channels(colour).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\)$|transparent/.test(colour)) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  for (const element of document.querySelectorAll('p,li,td,th,dt,dd,a,summary,h1,h2,h3,figcaption,pre,strong')) {
    if (!element.checkVisibility() || element.matches('.skip')) continue;
    const [a, b] = [getComputedStyle(element).color, behind(element)].map(luminance);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push(`<${element.tagName.toLowerCase()}> has a contrast of ${contrast.toFixed(2)}`);
  }
  return [...new Set(found)];
}

const browser = await chromium.launch({ executablePath: program, args: ['--no-sandbox'] });
let faults = 0;
for (const width of [1280, 390]) {
  for (const colorScheme of ['light', 'dark']) {
    const page = await browser.newPage({ viewport: { width, height: 844 }, colorScheme });
    const found = [];
    const url = pathToFileURL(resolve(file)).href;
    page.on('console', (message) => found.push(`console: ${message.text()}`));
    page.on('pageerror', (error) => found.push(`error: ${error}`));
    page.on('request', (request) => request.url() !== url && !request.url().startsWith('data:') && found.push(`request: ${request.url()}`));
    await page.goto(url);
    found.push(...(await page.evaluate(look)));
    await page.keyboard.press('Tab');
    if (!(await page.evaluate(() => document.activeElement?.matches('.skip')))) found.push('the first key stop is not the link to the content');
    const picture = `${file.replace(/\.html$/, '')}-${width}-${colorScheme}.png`;
    await page.mouse.click(1, 1);
    await page.screenshot({ path: picture, fullPage: true });
    for (const fault of found) console.log(`${width} ${colorScheme}: ${fault}`);
    faults += found.length;
    console.log(`${width} ${colorScheme}: ${picture}`);
    await page.close();
  }
}
await browser.close();
process.exit(faults ? 1 : 0);
