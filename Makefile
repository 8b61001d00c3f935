# polar: make builds the library and ./polar; make help lists the rest.
CC ?= cc
CFLAGS ?= -O2
WARN = -Wall -Wextra
LIBS = -lpthread -lm
CLI = $(sort $(wildcard examples/cli/*.c)) examples/answer/answer.c
# Those that take longest first, so that no core waits for the last.
LONG_TESTS = test_train_cli test_session test_many test_search_cli test_golden test_eval_cli test_rivals
TESTS = $(LONG_TESTS) $(filter-out $(LONG_TESTS),$(patsubst tests/%.c,%,$(sort $(wildcard tests/test_*.c))))
# The level at which compiling and running take least in all, unless the user says otherwise.
TEST_CFLAGS ?= -O1

all: polar libpolar.a

help:
	@echo "make            the library libpolar.a and the command ./polar"
	@echo "make test       all tests (make test SAN=1 with sanitizers)"
	@echo "make bench      speed on synthetic model files"
	@echo "make demo       the bundled model answers questions by program; writes demo-report.html"
	@echo "make demo-model the bundled model again, from nothing: half an hour"
	@echo "make wasm       WebAssembly: the library, and its kernels tested in node"
	@echo "make embedded   inference alone, as on a microcontroller"
	@echo "make check-all  the long matrix: compilers, sanitizers, other CPUs"
	@echo "make install    to PREFIX (default /usr/local)"

build/polar.o: polar.c polar.h
	@mkdir -p build
	$(CC) -std=c99 $(WARN) $(CFLAGS) -c polar.c -o $@

libpolar.a: build/polar.o
	$(AR) rcs $@ $<

CLI_OBJECTS = $(CLI:examples/%.c=build/%.o)
build/cli/%.o: examples/cli/%.c $(wildcard examples/cli/*.h) examples/answer/answer.h polar.h
	@mkdir -p $(@D)
	$(CC) -std=c99 $(WARN) $(CFLAGS) -I. -c $< -o $@

build/answer/%.o: examples/answer/%.c examples/answer/answer.h polar.h
	@mkdir -p $(@D)
	$(CC) -std=c99 $(WARN) $(CFLAGS) -I. -c $< -o $@

polar: $(CLI_OBJECTS) libpolar.a
	$(CC) $(CFLAGS) $(CLI_OBJECTS) libpolar.a -o $@ $(LDFLAGS) $(LIBS)

ifdef SAN
TEST_CFLAGS = -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all
endif

# polar.c is compiled once for all tests, with what is static in it for them to see: tests/inside.h.
build/inside-declarations.h: polar.c tests/inside.awk
	@mkdir -p build
	awk -f tests/inside.awk polar.c >$@

build/inside.c: polar.c tests/inside.awk
	@mkdir -p build
	awk -v bodies=1 -f tests/inside.awk polar.c >$@

build/inside.o: build/inside.c polar.h tests/tiles.h build/test-flags
	$(CC) -std=c99 $(WARN) -Wno-unused-function -DPOLAR_TILES='"tests/tiles.h"' $(TEST_CFLAGS) -I. -c $< -o $@

# Changes when compiler or flags do: SAN=1 compiles anew.
build/test-flags: FORCE
	@mkdir -p build
	@echo '$(CC) $(TEST_CFLAGS)' | cmp -s - $@ || echo '$(CC) $(TEST_CFLAGS)' >$@
FORCE:

# The command that tests start: of the same object.
TEST_CLI_OBJECTS = $(CLI:examples/%.c=build/inside/%.o)
build/inside/%.o: examples/%.c $(wildcard examples/cli/*.h) examples/answer/answer.h polar.h build/test-flags
	@mkdir -p $(@D)
	$(CC) -std=c99 $(WARN) $(TEST_CFLAGS) -I. -c $< -o $@

build/polar: build/inside.o $(TEST_CLI_OBJECTS)
	$(CC) $(TEST_CFLAGS) $^ -o $@ $(LDFLAGS) $(LIBS)

# make build/test_gguf && build/test_gguf: one alone. Those that do not look into vector code are spared the compiler's
# headers for it, which are larger than all else.
build/test_%: tests/test_%.c $(wildcard tests/*.h tests/fuzz/*.c examples/*/*.[ch]) build/inside-declarations.h \
        build/inside.o
	$(CC) -std=c99 $(WARN) -Wno-unused-function $(TEST_CFLAGS) -DPOLAR_INSIDE='<build/inside-declarations.h>' -I. \
		$(if $(shell grep -E 'POLAR_(X86|ARM)|KERN_SCRATCH' $<),,-DPOLAR_NO_SIMD) $< $(filter %.o,$^) \
		-o $@ $(LDFLAGS) $(LIBS)

build/test_bundle build/test_train_cli: build/inside/answer/answer.o

$(patsubst tests/%.c,build/%,$(shell grep -l '"command.h"' tests/test_*.c)): build/polar

# The programs of README and polar.h, which test_gen runs. `make test` compiles no library for them.
LIBRARY ?= libpolar.a
build/minimal build/chat: build/%: examples/%.c $(LIBRARY)
	$(CC) -std=c99 $(WARN) $(TEST_CFLAGS) -I. $< $(LIBRARY) -o $@ $(LDFLAGS) $(LIBS)

build/test_gen: build/minimal build/chat

build/test_embedded: build/embedded/embedded

# Builds and runs as many tests at once as there are cores, unless -j or JOBS says otherwise. Each program prints its own
# line; the sum comes last. POLAR_SHARED=DIR names the data that users do not have.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
test:
	@$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS)) test-programs LIBRARY=build/inside.o
	@sh tests/run.sh $(TESTS:%=build/%)

test-programs: build/polar $(TESTS:%=build/%)

build/make_model: tests/make_model.c examples/cli/gguf_writer.c $(LIBRARY)
	$(CC) -std=c99 $(WARN) $(TEST_CFLAGS) -I. $< $(LIBRARY) -o $@ $(LDFLAGS) $(LIBS)

# Inference alone, for small devices: everything else switched off, and nothing needed from outside but memory and
# string functions, qsort and square roots.
EMBEDDED = -DPOLAR_NO_TOKENIZER -DPOLAR_NO_SEARCH -DPOLAR_NO_TRAIN -DPOLAR_NO_STDIO -DPOLAR_NO_THREADS -DPOLAR_NO_SIMD \
    -DPOLAR_NO_MMAP -DPOLAR_NO_MALLOC -DNDEBUG -Os -ffunction-sections -fdata-sections -fno-jump-tables
DEVICE_CC ?= $(CC)
DEVICE_OBJCOPY ?= objcopy

build/make_array: examples/embedded/make_array.c
	@mkdir -p build
	$(CC) -std=c99 $(WARN) $(CFLAGS) $< -o $@

build/embedded/model.h: build/make_model build/make_array
	@mkdir -p build/embedded
	build/make_model micro Q4_0 build/embedded/model.gguf
	build/make_array build/embedded/model.gguf > $@

build/embedded/device.o: Makefile polar.c polar.h examples/embedded/device.c examples/embedded/device.h build/embedded/model.h
	$(DEVICE_CC) -std=c99 $(WARN) $(EMBEDDED) -c polar.c -o build/embedded/polar.o
	$(DEVICE_CC) -std=c99 $(WARN) $(EMBEDDED) -I. -Ibuild/embedded -c examples/embedded/device.c -o build/embedded/part.o
	$(DEVICE_CC) -nostdlib -r -Wl,--gc-sections,-u,device_generate build/embedded/polar.o build/embedded/part.o -o $@
	$(DEVICE_OBJCOPY) --strip-unneeded $@
	@! nm -u $@ | grep -vE ' (mem(chr|cmp|cpy|move|set)|str(chr|cmp|cspn|len|ncmp|str)|qsort|sqrtf?|__aeabi_[a-z0-9_]*)$$'

build/embedded/embedded: build/embedded/device.o examples/embedded/main.c
	$(CC) -std=c99 $(WARN) -I. examples/embedded/main.c $< -o $@ -lm

embedded: build/embedded/embedded
	@size build/embedded/device.o build/embedded/part.o
	build/embedded/embedded "0 1x2"

build/bench-%.gguf: build/make_model
	build/make_model $(subst +, ,$*) $@

# Real shapes, made-up weights: 2 GB under build/, or less with BENCH=qwen2.5-0.5b+Q4_0
BENCH ?= qwen2.5-0.5b+Q4_0 llama-3.2-1b+Q4_K llama-3.2-1b+Q8_0
bench: polar $(BENCH:%=build/bench-%.gguf)
	./polar bench $(BENCH:%=build/bench-%.gguf)

# WebAssembly by clang alone, with its vectors, tested in node. Training needs more than the linker's stack of 64 KB, which
# lies behind the data and overwrites them when it overflows: here it is 1 MB and in front of them.
WASM_CC ?= clang --target=wasm32-wasi
WASM_FLAGS = -O2 -msimd128 -DPOLAR_NO_THREADS -DPOLAR_NO_MMAP
WASM_LINK = -Wl,-z,stack-size=1048576,--stack-first,--initial-memory=268435456,--max-memory=268435456
WASM_TESTS ?= golden kern

build/wasm/polar.o: polar.c polar.h
	@mkdir -p build/wasm
	$(WASM_CC) -std=c99 $(WARN) $(WASM_FLAGS) -c polar.c -o $@

build/wasm/test_%.wasm: tests/test_%.c $(wildcard tests/*.h) polar.c polar.h
	@mkdir -p build/wasm
	$(WASM_CC) -std=c99 -w $(WASM_FLAGS) $(WASM_LINK) -I. $< -o $@

wasm: build/wasm/polar.o $(WASM_TESTS:%=build/wasm/test_%.wasm)
	for name in $(WASM_TESTS); do node --no-warnings tests/run_wasm.mjs build/wasm/test_$$name.wasm || exit 1; done

check-all:
	@CI=true POLAR_CI=all bash .ci/run

# --- the bundled demo: examples/demo/README.md ---
DEMO = examples/demo
DEMO_SETS = train validation test ood-wording ood-words ood-steps
# The trainer wants all that the machine has; it also builds without.
DEMO_CFLAGS ?= -O3 -march=native -ffast-math
# How long the model is trained, in updates.
DEMO_UPDATES ?= 9200

build/demo/questions: $(DEMO)/questions.c $(DEMO)/story.c $(DEMO)/story.h
	@mkdir -p build/demo
	$(CC) -std=c99 $(WARN) $(CFLAGS) -I$(DEMO) $(DEMO)/questions.c $(DEMO)/story.c -o $@

build/demo/vocabulary: $(DEMO)/vocabulary.c $(DEMO)/story.c $(DEMO)/story.h libpolar.a
	@mkdir -p build/demo
	$(CC) -std=c99 $(WARN) $(CFLAGS) -I. -I$(DEMO) $(DEMO)/vocabulary.c $(DEMO)/story.c libpolar.a -o $@ $(LDFLAGS) $(LIBS)

TRAINER = $(addprefix $(DEMO)/,train_model.c transformer.c story.c)
build/demo/train_model: $(TRAINER) $(wildcard $(DEMO)/*.h) libpolar.a
	@mkdir -p build/demo
	$(CC) -std=c99 $(WARN) $(DEMO_CFLAGS) -I. -I$(DEMO) $(TRAINER) libpolar.a -o $@ $(LDFLAGS) $(LIBS)

build/demo/%.jsonl: build/demo/questions
	build/demo/questions $* 4000 >$@.tmp && mv $@.tmp $@

build/demo/vocabulary.gguf: build/demo/vocabulary
	build/demo/vocabulary $@

demo-questions: $(DEMO_SETS:%=build/demo/%.jsonl)

# Questions it has not seen, answered under the programs that its predictor picks; all methods compared on some hundred of
# them, live. The prices come from validation questions: demo-fit.json.
DEMO_QUESTIONS ?= 400
demo: polar build/demo/test.jsonl
	@rm -f build/demo/eval.json demo-report.html
	@./polar eval -m $(DEMO)/demo-model.gguf -p $(DEMO)/demo-predictor.gguf --validation $(DEMO)/demo-fit.json \
		build/demo/test.jsonl --limit $(DEMO_QUESTIONS) --show 20 --time 40 -o build/demo/eval.json
	@./polar report build/demo/eval.json -o demo-report.html --title "polar: the bundled demo"
	@echo; echo "demo-report.html shows this as a page"

# From nothing; a run that was interrupted goes on from its checkpoint.
demo-model: polar build/demo/train_model build/demo/vocabulary.gguf
	build/demo/train_model -v build/demo/vocabulary.gguf -o build/demo/model-f32.gguf -c build/demo/checkpoint \
		--dial --updates $(DEMO_UPDATES)
	./polar quantize build/demo/model-f32.gguf $(DEMO)/demo-model.gguf Q8_0
	$(MAKE) demo-predictor

# What the bundled predictor came from: programs found for 4000 training questions, a menu of them and of the depths that
# the model was trained at run on all these questions, both networks, and prices from validation questions. Two runs give
# the same bytes, but not those of the bundled files: their search still evaluated programs in batches.
DEMO_DEPTHS = 6-10x0 7-10x0 8-10x0 9-10x0 10x0 2-5x2,6-10x0 2-5x2,7-10x0 2-5x2,8-10x0 2-5x2 2-5x3,6-10x0 2-5x3,8-10x0 \
	2-5x3 2-5x4,6-10x0 2-5x4 2-5x0,7-10x0 2-5x0,8-10x0 2-5x0,9-10x0 2-5x0,10x0 2-5x0
demo-predictor: polar build/demo/train.jsonl build/demo/validation.jsonl
	./polar search -m $(DEMO)/demo-model.gguf build/demo/train.jsonl --simulations 50 -n 8 --seed 1 -o build/demo/found.json
	./polar search -m $(DEMO)/demo-model.gguf build/demo/found.json --menu 32 -o build/demo/menu.json
	./polar search -m $(DEMO)/demo-model.gguf build/demo/menu.json --menu 20 $(DEMO_DEPTHS:%=--also %) \
		-o build/demo/menus.json
	./polar train -m $(DEMO)/demo-model.gguf build/demo/menus.json -o $(DEMO)/demo-predictor.gguf --width 64 --epochs 4 \
		--max-paths 12 --menu-width 64 --menu-epochs 20 --menu-size 48 --price 0.3 --pooling all --policy 1
	./polar eval -m $(DEMO)/demo-model.gguf -p $(DEMO)/demo-predictor.gguf build/demo/validation.jsonl --limit 2400 -n 8 \
		--fit $(DEMO)/demo-fit.json -o build/demo/eval-validation.json
	./polar predictor cascade $(DEMO)/demo-predictor.gguf build/demo/eval-validation.json

# The evaluation that README quotes: all 4000 test questions, and those out of distribution.
demo-eval: polar $(DEMO_SETS:%=build/demo/%.jsonl)
	for set in test ood-wording ood-words ood-steps; do \
		./polar eval -m $(DEMO)/demo-model.gguf -p $(DEMO)/demo-predictor.gguf --validation $(DEMO)/demo-fit.json \
			build/demo/$$set.jsonl -n 8 --skip 3 -o build/demo/eval-$$set.json || exit 1; \
	done

# What others do in place of a predictor, beside it on 1000 test questions.
demo-rivals: polar build/demo/train.jsonl build/demo/validation.jsonl build/demo/test.jsonl
	head -80 build/demo/validation.jsonl >build/demo/probes.jsonl
	sed -n 1001,1800p build/demo/validation.jsonl >build/demo/others.jsonl
	./polar scan -m $(DEMO)/demo-model.gguf build/demo/probes.jsonl --held-out build/demo/others.jsonl --max-times 3 \
		--winners 10 -o build/demo/scan.json
	./polar search -m $(DEMO)/demo-model.gguf build/demo/train.jsonl --limit 1200 --simulations 50 -n 8 --seed 1 \
		-o build/demo/found-1200.json
	./polar rivals -m $(DEMO)/demo-model.gguf build/demo/found-1200.json --validation build/demo/validation.jsonl \
		--limit 1000 --scan build/demo/scan.json -n 8 -o build/demo/rivals.json
	./polar eval -m $(DEMO)/demo-model.gguf -p $(DEMO)/demo-predictor.gguf --validation $(DEMO)/demo-fit.json \
		--rivals build/demo/rivals.json build/demo/test.jsonl --limit 1000 -n 8 --skip 1 --skip 2 --skip 3 --skip 4 \
		-o build/demo/eval-rivals.json

PREFIX ?= /usr/local
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib $(DESTDIR)$(PREFIX)/include
	install polar $(DESTDIR)$(PREFIX)/bin
	install -m 644 libpolar.a $(DESTDIR)$(PREFIX)/lib
	install -m 644 polar.h $(DESTDIR)$(PREFIX)/include

clean:
	rm -rf build libpolar.a polar

.PHONY: all help install test test-programs bench embedded wasm check-all clean FORCE demo demo-model demo-predictor demo-eval \
	demo-rivals demo-questions
.SECONDARY:
