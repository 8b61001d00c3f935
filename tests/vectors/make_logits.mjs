// Logits of small models under programs of layers, in float64 and by formulas alone: no cache, no rounding of
// activations, nothing of this project. Whoever runs the tests does not need it; it made logits.json:
//
//     make build/test_session && mkdir -p /tmp/models && POLAR_WRITE_MODELS=/tmp/models build/test_session vectors
//     node tests/vectors/make_logits.mjs /tmp/models examples/demo/demo-model.gguf >tests/vectors/logits.json
//
// and compares itself with the cases of another float64 implementation where there are some:
//
//     node tests/vectors/make_logits.mjs --check cases_llama.json model_llama.gguf
import fs from "fs";

// --- GGUF: metadata and tensors as numbers ---

function readGguf(path) {
    const bytes = fs.readFileSync(path), view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    let at = 8;
    const u32 = () => view.getUint32((at += 4) - 4, true), u64 = () => Number(view.getBigUint64((at += 8) - 8, true));
    const text = () => { const n = u64(); return bytes.toString("utf8", at, at += n); };
    const value = type => {
        switch (type) {
        case 0: case 7: return view.getUint8(at++);
        case 4: return u32();
        case 5: return view.getInt32((at += 4) - 4, true);
        case 6: return view.getFloat32((at += 4) - 4, true);
        case 8: return text();
        case 9: { const of = u32(), n = u64(); return Array.from({length: n}, () => value(of)); }
        case 10: case 11: return u64();
        case 12: return view.getFloat64((at += 8) - 8, true);
        }
        throw new Error(`${path}: a value of type ${type}`);
    };
    const nTensors = u64(), nPairs = u64(), meta = {}, tensors = {};
    for (let i = 0; i < nPairs; i++) { const key = text(); meta[key] = value(u32()); }
    const infos = Array.from({length: nTensors}, () => {
        const name = text(), dims = Array.from({length: u32()}, u64);
        return {name, dims, type: u32(), offset: u64()};
    });
    const align = meta["general.alignment"] ?? 32, start = Math.ceil(at / align) * align;
    const half = h => { // F16
        const e = h >> 10 & 31, m = h & 1023, s = h >> 15 ? -1 : 1;
        return s * (e ? (e == 31 ? Infinity : (1 + m / 1024) * 2 ** (e - 15)) : m * 2 ** -24);
    };
    for (const {name, dims, type, offset} of infos) {
        const n = dims.reduce((a, b) => a * b, 1), x = new Float64Array(n), from = start + offset;
        if (type != 0 && type != 8) throw new Error(`${path}: ${name} is neither F32 nor Q8_0`);
        for (let i = 0; i < n; i++) { // Q8_0: blocks of an F16 scale and 32 bytes
            if (type == 0) x[i] = view.getFloat32(from + 4 * i, true);
            else {
                const block = from + 34 * (i >> 5);
                x[i] = half(view.getUint16(block, true)) * view.getInt8(block + 2 + i % 32);
            }
        }
        tensors[name] = {dims, x};
    }
    return {meta, tensors};
}

// --- the transformer ---

const dot = (w, at, x) => { let s = 0; for (let i = 0; i < x.length; i++) s += w[at + i] * x[i]; return s; };
const add = (a, b) => a.map((x, i) => x + b[i]);
const rms = (x, w, eps) => {
    const s = 1 / Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length + eps);
    return x.map((v, i) => v * s * w[i]);
};
const silu = z => z / (1 + Math.exp(-z));
const gelu = z => z / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (z + 0.044715 * z ** 3)));
const softmax = z => {
    const m = Math.max(...z), e = z.map(v => Math.exp(v - m)), s = e.reduce((a, b) => a + b, 0);
    return e.map(v => v / s);
};

function open(path) {
    const {meta, tensors} = readGguf(path), arch = meta["general.architecture"], key = k => meta[`${arch}.${k}`];
    const heads = key("attention.head_count"), dim = key("embedding_length");
    const model = {
        arch, tensors, heads, dim, layers: key("block_count"), kv: key("attention.head_count_kv") ?? heads,
        head: key("attention.key_length") ?? dim / heads, eps: key("attention.layer_norm_rms_epsilon"),
        base: key("rope.freq_base") ?? 10000, used: key("expert_used_count"),
        gemma: arch == "gemma3", window: key("attention.sliding_window"),
        pattern: key("attention.sliding_window_pattern") ?? 6, localBase: key("rope.freq_base_swa") ?? 10000,
        factor: key("rope.scaling.factor") ?? 1, looped: /^(nanbeige|ouro)$/.test(arch) && !key("skip_loop_final_norm"),
    };
    model.isLocal = l => model.gemma &&
        (Array.isArray(model.pattern) ? !!model.pattern[l] : l % model.pattern < model.pattern - 1);
    model.rope = key("rope.dimension_count") ?? model.head;
    // y = W x for the matrix or, in a stack of them, the one with this index; plus its bias
    model.times = (name, x, index = 0) => {
        const {dims, x: w} = tensors[`${name}.weight`], rows = dims[1] ?? 1, y = new Array(rows);
        for (let r = 0; r < rows; r++) y[r] = dot(w, (index * rows + r) * dims[0], x);
        const bias = tensors[`${name}.bias`];
        return bias ? add(y, bias.x) : y;
    };
    model.norm = (name, x) => rms(x, tensors[`${name}.weight`].x, model.eps);
    return model;
}

// A head turned: pairs are neighbours in llama and the looped models, halves apart in the others.
function rotate(m, x, position, local) {
    const y = [...x], half = m.rope / 2, factors = m.tensors["rope_freqs.weight"]?.x;
    for (let i = 0; i < half; i++) {
        const near = /^(llama|nanbeige|ouro)$/.test(m.arch), a = near ? 2 * i : i, b = near ? 2 * i + 1 : i + half;
        const angle = position * (local ? m.localBase : m.base) ** (-2 * i / m.rope) /
                      (factors ? factors[i] : 1) / (local ? 1 : m.factor);
        const c = Math.cos(angle), s = Math.sin(angle);
        y[a] = x[a] * c - x[b] * s;
        y[b] = x[a] * s + x[b] * c;
    }
    return y;
}

function attention(m, l, xs) {
    const of = `blk.${l}.`, split = (v, n) => Array.from({length: n}, (_, h) => v.slice(h * m.head, (h + 1) * m.head));
    const heads = (name, n, turned) => xs.map((x, t) =>
        split(m.times(`${of}attn_${name}`, m.norm(`${of}attn_norm`, x)), n).map(head => {
            if (!turned) return head;
            if (m.tensors[`${of}attn_${name}_norm.weight`]) head = m.norm(`${of}attn_${name}_norm`, head);
            return rotate(m, head, t, m.isLocal(l));
        }));
    const q = heads("q", m.heads, 1), k = heads("k", m.kv, 1), v = heads("v", m.kv, 0);
    return xs.map((_, t) => {
        const out = [];
        for (let h = 0; h < m.heads; h++) {
            const g = Math.floor(h * m.kv / m.heads), first = m.isLocal(l) ? Math.max(0, t + 1 - m.window) : 0;
            const before = Array.from({length: t + 1 - first}, (_, s) => first + s);
            const p = softmax(before.map(s => dot(q[t][h], 0, k[s][g]) / Math.sqrt(m.head)));
            for (let i = 0; i < m.head; i++) out.push(before.reduce((sum, s, j) => sum + p[j] * v[s][g][i], 0));
        }
        return m.times(`${of}attn_output`, out);
    });
}

function feedForward(m, l, x) {
    const of = `blk.${l}.`, h = m.norm(`${of}ffn_norm`, x);
    const swiglu = (suffix, e) => {
        const gate = m.times(`${of}ffn_gate${suffix}`, h, e), up = m.times(`${of}ffn_up${suffix}`, h, e);
        return m.times(`${of}ffn_down${suffix}`, gate.map((g, i) => (m.gemma ? gelu : silu)(g) * up[i]), e);
    };
    if (m.arch != "qwen2moe") return swiglu("", 0);
    const p = softmax(m.times(`${of}ffn_gate_inp`, h)), best = p.map((_, e) => e).sort((a, b) => p[b] - p[a]);
    const share = 1 / (1 + Math.exp(-m.times(`${of}ffn_gate_inp_shexp`, h)[0]));
    let y = swiglu("_shexp", 0).map(v => share * v);
    for (const e of best.slice(0, m.used)) y = add(y, swiglu("_exps", e).map(v => p[e] * v));
    return y;
}

function layer(m, l, xs) {
    const post = (name, y) => m.tensors[`blk.${l}.${name}.weight`] ? m.norm(`blk.${l}.${name}`, y) : y;
    const attended = attention(m, l, xs).map((y, t) => add(xs[t], post("post_attention_norm", y)));
    return attended.map(x => add(x, post("post_ffw_norm", feedForward(m, l, x))));
}

// Logits behind the last token. ops: a layer, or [a, b, K]: layers a to b in K damped passes.
function logitsOf(m, tokens, ops) {
    let xs = tokens.map(t => Array.from(m.tensors["token_embd.weight"].x.subarray(t * m.dim, (t + 1) * m.dim),
                                        v => m.gemma ? v * Math.sqrt(m.dim) : v));
    let last = -1; // the layer called last: behind the final one a looped model norms what the next call gets
    const enter = (ys, l) => {
        const normed = m.looped && last == m.layers - 1;
        last = l;
        return normed ? ys.map(y => m.norm("output_norm", y)) : ys;
    };
    for (const op of ops) {
        if (typeof op == "number") { xs = layer(m, op, enter(xs, op)); continue; }
        const [a, b, passes] = op;
        let first = null;
        for (let k = 0; k < passes; k++) {
            let ys = xs = enter(xs, a);
            for (let l = a; l <= b; l++) ys = layer(m, l, l == a ? ys : enter(ys, l));
            first ??= ys;
            xs = xs.map((x, t) => x.map((v, i) => v + (ys[t][i] - v) / passes));
        }
        if (passes > 1) xs = xs.map((x, t) => x.map((v, i) => (first[t][i] + v) / 2));
        else xs = first;
    }
    return m.times(m.tensors["output.weight"] ? "output" : "token_embd", m.norm("output_norm", xs.at(-1)));
}

const largest = x => x.indexOf(Math.max(...x));

// --- cases ---

function check(casesPath, modelPath) {
    const m = open(modelPath), {cases} = JSON.parse(fs.readFileSync(casesPath));
    let worst = 0;
    for (const c of cases) {
        const x = logitsOf(m, c.tokens, c.path ?? c.mode.ops), want = c.percall.prefill_logits;
        const range = Math.max(...want) - Math.min(...want);
        worst = Math.max(worst, ...want.map((v, i) => Math.abs(v - x[i]) / range));
        if (largest(x) != c.percall.greedy[0]) throw new Error(`${casesPath}: ${c.program}: another token`);
    }
    console.log(`${casesPath}: ${cases.length} cases, largest error ${worst.toExponential(1)} of the logits' range`);
}

function make(folder, demo) {
    const programs = [{path: [0, 1, 2, 3]}, {path: [0, 2, 3]}, {path: [0, 1, 2, 1, 2, 2, 3]}, {path: [3, 1, 0]},
                      {mode: {text: "1-2~3", calls: [0, 1, 2, 1, 2, 1, 2, 3], ops: [0, [1, 2, 3], 3]}}];
    const demos = [{path: [...Array(12).keys()]}, {path: [0, 1, 2, 3, 4, 8, 9, 10, 11]},
                   {path: [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9, 10, 11]}];
    const prompts = [[77, 3, 250, 18, 101, 101, 42], [5]];
    // "A pearl is under cup 5 of eight. Follow it. The pairs 5 and 2; 5 and 7; 6 and 4 swap."
    const demoPrompts = [[538, 65, 446, 276, 324, 296, 291, 421, 460, 46, 401, 275, 46, 363, 441, 291, 271, 290, 59,
                          291, 271, 349, 59, 350, 271, 289, 312, 46]];
    const names = ["llama", "qwen2", "qwen3", "qwen2moe"];
    const looped = [{path: [0, 1, 2, 3, 0, 1, 2, 3]}, {path: [3, 3, 0, 2, 3, 3]}, {path: [0, 2, 1, 0, 1, 3]},
                    {mode: {text: "2-3~2", calls: [0, 1, 2, 3, 2, 3], ops: [0, 1, [2, 3, 2]]}}];
    const models = names.map(name => [name, open(`${folder}/${name}.gguf`), programs, prompts]);
    for (const name of ["nanbeige", "ouro"]) models.push([name, open(`${folder}/${name}.gguf`), looped, prompts]);
    const locals = [{path: [0, 1, 2, 3]}, {path: [1, 0, 0, 2]}, {path: [3, 2, 1, 0, 2]},
                    {mode: {text: "1-2~3", calls: [0, 1, 2, 1, 2, 1, 2, 3], ops: [0, [1, 2, 3], 3]}}];
    models.push(["gemma3", open(`${folder}/gemma3.gguf`), locals, prompts]);
    models.push(["demo", open(demo), demos, demoPrompts]);
    console.log("[");
    models.forEach(([name, m, list, lists], at) => {
        console.log(`{"model":"${name}","cases":[`);
        const cases = list.flatMap((program, i) => lists.slice(0, i ? 1 : 2).map(tokens => ({...program, tokens})));
        cases.forEach((c, i) => {
            const ids = [...c.tokens], greedy = [];
            let margin = Infinity, first = null;
            for (let k = 0; k < 5; k++) {
                const x = logitsOf(m, ids, c.path ?? c.mode.ops), two = [...x].sort((a, b) => b - a);
                first ??= x;
                margin = Math.min(margin, (two[0] - two[1]) / (two[0] - two.at(-1)));
                greedy.push(largest(x));
                ids.push(greedy.at(-1));
            }
            const percall = {margin: +margin.toPrecision(2), greedy, prefill_logits: first.map(v => +v.toPrecision(7))};
            console.log(JSON.stringify({...c, percall}) + (i + 1 < cases.length ? "," : "]}"));
        });
        if (at + 1 < models.length) console.log(",");
    });
    console.log("]");
}

const args = process.argv.slice(2);
if (args[0] == "--check") check(args[1], args[2]);
else make(args[0], args[1]);
