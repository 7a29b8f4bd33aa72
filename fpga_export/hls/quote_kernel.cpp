// The quote kernel in integers, the same operations in the same order as the RTL beside it.
#include "quote_kernel.h"

// Between the values of an even and an odd node, rounded half up; `swap`: the lower node is the odd one.
template <int W, int FB, int GUARD>
static SI(W + GUARD) lerp(SI(W) even, SI(W) odd, bool swap, UI(FB) place) {
#pragma HLS INLINE
  const SI(W) low = swap ? odd : even;
  const SI(W) high = swap ? even : odd;
  const SI(W + 1) difference = high - low;
  const SI(W + FB + 2) product = difference * SI(FB + 1)(place);
  const SI(W + FB + 2) rounded = (product + (1 << (FB - GUARD - 1))) >> (FB - GUARD);
  return SI(W + FB + 2)(low) * (1 << GUARD) + rounded;
}

static SI(18) limited(const quote_registers &registers, SI(18) depth) {
#pragma HLS INLINE
  if (depth > registers.depth_max) return registers.depth_max;
  if (depth < registers.depth_min) return registers.depth_min;
  return depth;
}

static UI(16) size_within(SI(5) room, UI(16) size) {
#pragma HLS INLINE
  if (room <= 0) return 0;
  return room < SI(17)(size) ? UI(16)(room) : size;
}

void quote_slow(const quote_table table, const quote_registers &registers, const quote_state &state, quote_offsets &offsets) {
#pragma HLS INLINE
  // Inputs saturate here, and say so.
  const SI(4) Q = 3;
  const SI(4) inventory = state.inventory > Q ? Q : state.inventory < -Q ? SI(4)(-Q) : state.inventory;
  const UI(12) risk = state.risk > 3839 ? UI(12)(3839) : state.risk;
  const SI(10) skew = state.skew > 204 ? SI(10)(204) : state.skew < -204 ? SI(10)(-204) : state.skew;
  const bool outside = inventory != state.inventory || risk != state.risk || skew != state.skew;
  offsets.saturated = outside;
  const UI(3) row = inventory + 3;

  // The leading one of the time names its segment, the bits behind it the node and the place.
  UI(6) time_node = state.time >> 7;
  UI(12) time_place = (state.time & 127) << 5;
  if (state.time >= 32768) {
    time_node = ((state.time - 32768) >> 12) + 48;
    time_place = (state.time & 4095) << 0;
  }
  else if (state.time >= 16384) {
    time_node = ((state.time - 16384) >> 11) + 40;
    time_place = (state.time & 2047) << 1;
  }
  else if (state.time >= 8192) {
    time_node = ((state.time - 8192) >> 10) + 32;
    time_place = (state.time & 1023) << 2;
  }
  else if (state.time >= 4096) {
    time_node = ((state.time - 4096) >> 9) + 24;
    time_place = (state.time & 511) << 3;
  }
  else if (state.time >= 2048) {
    time_node = ((state.time - 2048) >> 8) + 16;
    time_place = (state.time & 255) << 4;
  }
  else if (state.time >= 1024) {
    time_node = ((state.time - 1024) >> 7) + 8;
    time_place = (state.time & 127) << 5;
  }
  const UI(4) risk_node = risk >> 8;
  const UI(8) risk_place = risk & 255;

  const bool time_swap = (time_node & 1) != 0;
  const UI(5) time_even = (time_node + 1) >> 1, time_odd = time_node >> 1;
  const bool risk_swap = (risk_node & 1) != 0;
  const UI(3) risk_even = (risk_node + 1) >> 1, risk_odd = risk_node >> 1;

  SI(16) values[4];
  for (int channel = 0; channel < 4; channel++) {
#pragma HLS UNROLL
    const SI(15) word_0 = table[0][row * 256 + time_even * 8 + risk_even][channel];
    const SI(15) word_1 = table[1][row * 256 + time_odd * 8 + risk_even][channel];
    const SI(15) word_2 = table[2][row * 256 + time_even * 8 + risk_odd][channel];
    const SI(15) word_3 = table[3][row * 256 + time_odd * 8 + risk_odd][channel];
    const SI(16) time_0 = lerp<15, 12, 1>(word_0, word_1, time_swap, time_place);
    const SI(16) time_1 = lerp<15, 12, 1>(word_2, word_3, time_swap, time_place);
    const SI(16) final = lerp<16, 8, 0>(time_0, time_1, risk_swap, risk_place);
    values[channel] = final;
  }

  const SI(26) ask_tilt = values[2] * skew;
  const SI(26) bid_tilt = values[3] * skew;
  const SI(13) above = SI(13)(state.vpin) - SI(13)(registers.vpin_gate);
  const SI(13) excess = above > 0 ? above : SI(13)(0);
  const SI(26) widening = (excess * SI(13)(registers.vpin_widen) + 256) >> 9;
  const SI(18) ask_sum = values[0] + ((ask_tilt + 1024) >> 11) + widening;
  const SI(18) bid_sum = values[1] + ((bid_tilt + 1024) >> 11) + widening;
  // The only place where a depth saturates.
  const SI(18) ask = limited(registers, ask_sum);
  const SI(18) bid = limited(registers, bid_sum);
  offsets.ask_depth = ask;
  offsets.bid_depth = bid;

  // Away from the mid, for an even and an odd sum of the book's prices.
  offsets.ask_even = (ask + 2047) >> 11;
  offsets.ask_odd = (ask + 3071) >> 11;
  offsets.bid_even = (-bid) >> 11;
  offsets.bid_odd = (1024 - bid) >> 11;

  const bool stopped = registers.order_size > registers.max_order_size || state.vpin >= registers.vpin_stop || (outside && registers.saturated_stops != 0);
  const UI(16) size = stopped ? UI(16)(0) : registers.order_size;
  offsets.bid_size = size_within(SI(5)(registers.inventory_limit) - inventory, size);
  offsets.ask_size = size_within(SI(5)(registers.inventory_limit) + inventory, size);
}

void quote_fast(const quote_registers &registers, const quote_offsets &offsets, const quote_book &book, quote_ticks &quotes) {
#pragma HLS INLINE
  typedef SI(32) price;
  // A book without a side, or with prices beyond the range, is as bad as a crossed one.
  const bool crossed = book.bid >= book.ask || book.bid == 0 || book.ask >= 1073741824;
  const UI(31) best_bid = crossed ? UI(31)(1) : book.bid;
  const UI(31) best_ask = crossed ? UI(31)(2) : book.ask;
  const UI(31) sum = best_bid + best_ask;
  const price base = sum >> 1;
  const bool odd = (sum & 1) != 0;
  price ask = base + (odd ? offsets.ask_odd : offsets.ask_even);
  price bid = base + (odd ? offsets.bid_odd : offsets.bid_even);
  // Never through the other side.
  if (ask < price(best_bid) + 1) ask = price(best_bid) + 1;
  if (bid > price(best_ask) - 1) bid = price(best_ask) - 1;
  const bool ask_wanted = !crossed && offsets.ask_size != 0;
  const bool bid_wanted = !crossed && offsets.bid_size != 0;
  const bool ask_inside = ask >= registers.price_low && ask <= registers.price_high;
  const bool bid_inside = bid >= registers.price_low && bid <= registers.price_high;
  const bool ask_on = ask_wanted && ask_inside;
  const bool bid_on = bid_wanted && bid_inside;
  const bool collared = (ask_wanted && !ask_inside) || (bid_wanted && !bid_inside);
  quotes.ask = ask_on ? ask : price(0);
  quotes.bid = bid_on ? bid : price(0);
  quotes.ask_size = ask_on ? offsets.ask_size : UI(16)(0);
  quotes.bid_size = bid_on ? offsets.bid_size : UI(16)(0);
  quotes.flags = int(bid_on) + 2 * int(ask_on) + 4 * int(offsets.saturated) + 8 * int(collared) + 16 * int(crossed);
}

void quote_kernel(const quote_table table, const quote_registers &registers, const quote_state &state, const quote_book &book, quote_ticks &quotes,
                  quote_offsets &offsets) {
#pragma HLS PIPELINE II = 1
#pragma HLS INTERFACE mode = bram port = table storage_type = ram_1p
#pragma HLS ARRAY_PARTITION variable = table complete dim = 1
#pragma HLS ARRAY_RESHAPE variable = table complete dim = 3
  quote_offsets found;
  quote_slow(table, registers, state, found);
  quote_fast(registers, found, book, quotes);
  offsets = found;
}
