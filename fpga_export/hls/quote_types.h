// Integers of stated width: ap_int for synthesis (compile with -DQUOTE_AP_INT), plain 32-bit integers otherwise.
// Every number of the kernel fits 32 bits; manifest.json, "operations", lists the interval of each.
#ifndef QUOTE_TYPES_H
#define QUOTE_TYPES_H
#include <cstdint>
#ifdef QUOTE_AP_INT
#include "ap_int.h"
#define SI(W) ap_int<W>
#define UI(W) ap_uint<W>
#else
#define SI(W) int32_t
#define UI(W) int32_t
#endif

struct quote_state {
  SI(4) inventory;
  UI(16) time;
  UI(12) risk;
  SI(10) skew;
  UI(12) vpin;
};

struct quote_book {
  UI(31) bid;
  UI(31) ask;
};

struct quote_registers {
  SI(18) depth_min;
  SI(18) depth_max;
  UI(12) vpin_gate;
  UI(12) vpin_widen;
  UI(13) vpin_stop;
  UI(16) order_size;
  UI(16) max_order_size;
  UI(4) inventory_limit;
  SI(31) price_low;
  SI(31) price_high;
  UI(1) saturated_stops;
};

// Whole ticks from half the sum of the book's prices, rounded down, for an even and an odd sum.
struct quote_offsets {
  SI(9) ask_even;
  SI(9) ask_odd;
  SI(9) bid_even;
  SI(9) bid_odd;
  UI(16) bid_size;
  UI(16) ask_size;
  UI(1) saturated;
  SI(18) ask_depth;
  SI(18) bid_depth;
};

// A side that is not quoted has price and size 0. flags: {crossed, collared, saturated, ask on, bid on}.
struct quote_ticks {
  SI(31) bid;
  SI(31) ask;
  UI(16) bid_size;
  UI(16) ask_size;
  UI(5) flags;
};

// One bank for each parity of the node on each axis, so that all corners of a cell are read in one cycle.
typedef int16_t quote_number;
typedef quote_number quote_table[4][1792][4];
#endif
