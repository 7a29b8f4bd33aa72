// Self-checking: explicit vectors, then digests of every node and of random states. Exit code 0 = all equal to the golden model.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "quote_kernel.h"
#include "tables.h"

static const int N_IN = 8, N_OUT = 10, N_REGISTERS = 11;
static const uint32_t BLOCK = 4096, N_NODES = 19152;

// Lines of hexadecimal 32-bit words, the last word of a line first, as $readmemh reads them.
static std::vector<uint32_t> words(const std::string &path, int per_line) {
  FILE *file = fopen(path.c_str(), "r");
  if (!file) {
    fprintf(stderr, "cannot read %s: run from the project's folder\n", path.c_str());
    exit(2);
  }
  std::vector<uint32_t> found;
  char line[1024];
  while (fgets(line, sizeof line, file))
    for (int i = 0; i < per_line; i++) found.push_back(uint32_t(strtoul(std::string(line + 8 * (per_line - 1 - i), 8).c_str(), nullptr, 16)));
  fclose(file);
  return found;
}

static uint32_t mix(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

static int32_t as_signed(uint32_t x, int bits) { return int32_t(x << (32 - bits)) >> (32 - bits); }

static int32_t clipped(int64_t x, int64_t low, int64_t high) { return int32_t(x < low ? low : x > high ? high : x); }

static quote_registers registers_from(const uint32_t *w) {
  quote_registers r;
  r.depth_min = int32_t(w[0]);
  r.depth_max = int32_t(w[1]);
  r.vpin_gate = int32_t(w[2]);
  r.vpin_widen = int32_t(w[3]);
  r.vpin_stop = int32_t(w[4]);
  r.order_size = int32_t(w[5]);
  r.max_order_size = int32_t(w[6]);
  r.inventory_limit = int32_t(w[7]);
  r.price_low = int32_t(w[8]);
  r.price_high = int32_t(w[9]);
  r.saturated_stops = int32_t(w[10]);
  return r;
}

static void stimulus(uint32_t number, quote_state &state, quote_book &book) {
  uint32_t w[7];
  for (uint32_t j = 0; j < 7; j++) w[j] = mix(24301u + 16 * number + j);
  int32_t inventory = as_signed(w[0], 4), time = (w[1] & 0xFFFF) >> (w[1] >> 16 & 7), risk = w[2] & 4095, skew = as_signed(w[3], 10);
  if (number < N_NODES) {
    uint32_t left = number;
    inventory = int32_t(left % 7) - 3;
    left /= 7;
    const uint32_t time_node = left % 57;
    left /= 57;
    const uint32_t risk_node = left % 16;
    left /= 16;
    const int32_t step = int32_t(left % 3) - 1;
    const uint32_t octave = time_node >> 3, inner = time_node & 7;
    const int64_t code = octave == 0 ? int64_t(inner) << 7 : int64_t(inner + 8) << (6 + octave);
    time = clipped(code + step, 0, 65535);
    risk = clipped((int64_t(risk_node) << 8) + step, 0, 4095);
  }
  state.inventory = inventory;
  state.time = time;
  state.risk = risk;
  state.skew = skew;
  state.vpin = int32_t(w[4] & 4095);
  const int32_t bid = 1 + int32_t(w[5] & 0x1FFFFFFF), ask = bid + int32_t(w[6] & 63) - 4;
  book.bid = bid;
  book.ask = ask < 1 ? 1 : ask;
}

static void run(const quote_registers &registers, const quote_state &state, const quote_book &book, uint32_t *out) {
  quote_ticks q;
  quote_offsets o;
  quote_kernel(QUOTE_TABLE, registers, state, book, q, o);
  const int32_t found[] = {int32_t(q.bid), int32_t(q.ask), int32_t((uint32_t(q.bid_size) << 16) | uint32_t(q.ask_size)), int32_t(q.flags),
                           int32_t(o.ask_even), int32_t(o.ask_odd), int32_t(o.bid_even), int32_t(o.bid_odd), int32_t(o.ask_depth), int32_t(o.bid_depth)};
  for (int i = 0; i < N_OUT; i++) out[i] = uint32_t(found[i]);
}

// "directed" leaves the random vectors out: co-simulation of a million calls takes days.
int main(int argc, char **argv) {
  const bool all = argc < 2 || std::string(argv[1]) != "directed";
  const std::vector<uint32_t> in = words("vectors/in.mem", N_IN), expected = words("vectors/out.mem", N_OUT);
  const std::vector<uint32_t> digests = words("vectors/digests.mem", 1), sets = words("vectors/registers.mem", N_REGISTERS);
  unsigned long wrong = 0, n = 0;
  uint32_t out[N_OUT];
  for (size_t i = 0; i < in.size() / N_IN; i++, n++) {
    const uint32_t *w = &in[i * N_IN];
    quote_state state;
    state.inventory = int32_t(w[1]);
    state.time = int32_t(w[2]);
    state.risk = int32_t(w[3]);
    state.skew = int32_t(w[4]);
    state.vpin = int32_t(w[5]);
    quote_book book;
    book.bid = int32_t(w[6]);
    book.ask = int32_t(w[7]);
    run(registers_from(&sets[w[0] * N_REGISTERS]), state, book, out);
    for (int j = 0; j < N_OUT; j++)
      if (out[j] != expected[i * N_OUT + j]) {
        if (wrong++ < 10) printf("vector %zu, output %d: %08x, expected %08x\n", i, j, unsigned(out[j]), unsigned(expected[i * N_OUT + j]));
        break;
      }
  }
  for (size_t block = 0; all && block < digests.size(); block++) {
    const quote_registers registers = registers_from(&sets[(block % 4) * N_REGISTERS]);
    uint32_t hash = 0x811C9DC5u;
    for (uint32_t i = 0; i < BLOCK; i++, n++) {
      quote_state state;
      quote_book book;
      stimulus(uint32_t(block) * BLOCK + i, state, book);
      run(registers, state, book, out);
      for (int j = 0; j < N_OUT; j++) hash = (hash ^ out[j]) * 0x01000193u;
    }
    if (hash != digests[block] && wrong++ < 10) printf("block %zu of %u vectors: digest %08x, expected %08x\n", block, unsigned(BLOCK), unsigned(hash), unsigned(digests[block]));
  }
  if (n != 944ul + (all ? 249ul * BLOCK : 0ul)) {
    printf("%lu vectors, the project has more: files are missing or short\n", n);
    wrong++;
  }
  printf("%s: %lu vectors, %lu mismatches\n", wrong ? "FAIL" : "PASS", n, wrong);
  return wrong != 0;
}
