// Prints the table uni_runs of polar.c: node tests/make_unicode.js (made with the Unicode version it names).
// A run of code points of one class is its first code point * 4 + class; 0 other, 1 letter, 2 number, 3 space.
const letter = /\p{L}/u, number = /\p{N}/u, space = /\p{White_Space}/u;
const runs = [];
let last = 0;
for (let c = 0; c <= 0x110000; c++) {
    const s = c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? '' : String.fromCodePoint(c);
    const kind = letter.test(s) ? 1 : number.test(s) ? 2 : space.test(s) ? 3 : 0;
    if (c >= 128 && (kind !== last || c === 128)) runs.push('0x' + (c * 4 + kind).toString(16));
    last = kind;
}
let text = `/* Unicode ${process.versions.unicode} */\n`, line = '   ';
for (const r of runs) {
    if (line.length + r.length + 2 > 118) text += line + '\n', line = '   ';
    line += ' ' + r + ',';
}
process.stdout.write(text + line + '\n');
