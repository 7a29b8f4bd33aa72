// Book and offsets -> quotes in 3 cycles: integer additions only, so nothing is lost against the full computation.
`default_nettype none
module quote_fast #(
    parameter int TAG_BITS = 8
) (
    input wire logic clk,
    input wire logic rst,

    input  wire logic                       in_valid,
    output logic                            in_ready,
    input  wire logic        [TAG_BITS-1:0] in_tag,
    input  wire logic                       in_live,
    input  wire logic        [30:0] best_bid,
    input  wire logic        [30:0] best_ask,
    input  wire logic signed [8:0] ask_even,
    input  wire logic signed [8:0] ask_odd,
    input  wire logic signed [8:0] bid_even,
    input  wire logic signed [8:0] bid_odd,
    input  wire logic        [15:0] bid_size,
    input  wire logic        [15:0] ask_size,
    input  wire logic                       saturated,

    // Asked again in the last stage: a stop catches what is on its way.
    input wire logic                       live,
    input wire logic signed [30:0] price_low,
    input wire logic signed [30:0] price_high,

    output logic                       out_valid,
    input  wire logic                  out_ready,
    output logic        [TAG_BITS-1:0] out_tag,
    output logic signed [30:0] bid,
    output logic signed [30:0] ask,
    output logic        [15:0] out_bid_size,
    output logic        [15:0] out_ask_size,
    // {live, crossed, collared, saturated, ask on, bid on}
    output logic        [5:0] flags
);
  // Everything moves, or everything waits for the receiver.
  logic moves;
  assign moves = !out_valid || out_ready;
  assign in_ready = moves;

  // Stage 1: sum of the book's prices, offsets of one state.
  logic valid_1, live_1, crossed_1, saturated_1;
  logic [TAG_BITS-1:0] tag_1;
  logic [31:0] sum_1;
  logic signed [31:0] spread_1;
  logic signed [30:0] above_bid_1, below_ask_1;
  logic signed [8:0] ask_even_1, ask_odd_1, bid_even_1, bid_odd_1;
  logic signed [8:0] ask_even_less_1, ask_odd_less_1, bid_odd_less_1;
  logic [15:0] bid_size_1, ask_size_1;
  always_ff @(posedge clk) begin
    if (rst) valid_1 <= 1'b0;
    else if (moves) valid_1 <= in_valid;
    if (moves) begin
      sum_1 <= {1'b0, best_bid} + {1'b0, best_ask};
      spread_1 <= signed'({1'b0, best_ask} - {1'b0, best_bid});
      above_bid_1 <= signed'(best_bid + 31'd1);
      below_ask_1 <= signed'(best_ask - 31'd1);
      // A book without a side, or with prices beyond the range, is as bad as a crossed one.
      crossed_1 <= best_bid >= best_ask || best_bid == 0 || best_ask[30];
      {ask_even_1, ask_odd_1, bid_even_1, bid_odd_1} <= {ask_even, ask_odd, bid_even, bid_odd};
      ask_even_less_1 <= ask_even - 9'sd1;
      ask_odd_less_1 <= ask_odd - 9'sd1;
      bid_odd_less_1 <= bid_odd - 9'sd1;
      {bid_size_1, ask_size_1, saturated_1, live_1, tag_1} <= {bid_size, ask_size, saturated, in_live, in_tag};
    end
    // A stop reaches what waits behind a slow receiver.
    if (!live) live_1 <= 1'b0;
  end

  // Stage 2: add the offset of the sum's parity; judge the guards' own prices.
  logic valid_2, live_2, crossed_2, saturated_2;
  logic [TAG_BITS-1:0] tag_2;
  logic signed [31:0] ask_2, bid_2;
  logic signed [30:0] above_bid_2, below_ask_2;
  logic ask_guarded_2, bid_guarded_2, guard_low_2, guard_high_2, cap_low_2, cap_high_2;
  logic [15:0] bid_size_2, ask_size_2;
  logic signed [31:0] base_1, half_1, ask_slack, bid_slack;
  logic signed [8:0] ask_offset_1, bid_offset_1;
  assign base_1 = signed'({1'b0, sum_1[31:1]});
  // Whether the sums fall short of the best bid plus 1, or pass the best ask minus 1: from half the spread, by a sign.
  assign half_1 = spread_1 >>> 1;
  assign ask_slack = half_1 + 32'(sum_1[0] ? ask_odd_less_1 : ask_even_less_1);
  assign bid_slack = 32'(sum_1[0] ? bid_odd_less_1 : bid_even_1) - half_1;
  logic unused_slacks;
  assign unused_slacks = ^{ask_slack, bid_slack};
  assign ask_offset_1 = sum_1[0] ? ask_odd_1 : ask_even_1;
  assign bid_offset_1 = sum_1[0] ? bid_odd_1 : bid_even_1;
  always_ff @(posedge clk) begin
    if (rst) valid_2 <= 1'b0;
    else if (moves) valid_2 <= valid_1;
    if (moves) begin
      ask_2 <= base_1 + 32'(ask_offset_1);
      bid_2 <= base_1 + 32'(bid_offset_1);
      ask_guarded_2 <= ask_slack[31];
      bid_guarded_2 <= !bid_slack[31];
      guard_low_2 <= above_bid_1 >= price_low;
      guard_high_2 <= above_bid_1 <= price_high;
      cap_low_2 <= below_ask_1 >= price_low;
      cap_high_2 <= below_ask_1 <= price_high;
      {above_bid_2, below_ask_2, bid_size_2, ask_size_2} <= {above_bid_1, below_ask_1, bid_size_1, ask_size_1};
      {crossed_2, saturated_2, live_2, tag_2} <= {crossed_1, saturated_1, live_1, tag_1};
    end
    if (!live) live_2 <= 1'b0;
  end

  // Stage 3: not through the other side, inside the collar, and only while live.
  // Signs of differences: one carry chain each.
  logic signed [32:0] ask_short, ask_over, bid_short, bid_over;
  assign ask_short = 33'(ask_2) - 33'(price_low);
  assign ask_over = 33'(price_high) - 33'(ask_2);
  assign bid_short = 33'(bid_2) - 33'(price_low);
  assign bid_over = 33'(price_high) - 33'(bid_2);
  logic unused_differences;
  assign unused_differences = ^{ask_short, ask_over, bid_short, bid_over};
  logic ask_inside, bid_inside, quoting, ask_on, bid_on;
  always_comb begin
    // The larger of two prices is above a limit if either is, and below one if both are.
    ask_inside = (!ask_short[32] || guard_low_2) && !ask_over[32] && guard_high_2;
    bid_inside = (!bid_over[32] || cap_high_2) && !bid_short[32] && cap_low_2;
    quoting = live && live_2 && !crossed_2;
    ask_on = quoting && ask_size_2 != 0 && ask_inside;
    bid_on = quoting && bid_size_2 != 0 && bid_inside;
  end
  logic signed [30:0] ask_3, bid_3;
  logic [15:0] bid_size_3, ask_size_3;
  always_ff @(posedge clk) begin
    if (rst) out_valid <= 1'b0;
    else if (moves) out_valid <= valid_2;
    if (rst) begin
      flags <= '0;
    end else if (moves) begin
      flags[0] <= bid_on;
      flags[1] <= ask_on;
      flags[2] <= saturated_2;
      flags[3] <= quoting && ((ask_size_2 != 0 && !ask_inside) || (bid_size_2 != 0 && !bid_inside));
      flags[4] <= crossed_2;
      flags[5] <= live && live_2;
    end else if (!live) begin
      // A stop also takes back the message that waits for its receiver.
      {flags[5], flags[1:0]} <= '0;
    end
    if (moves) begin
      ask_3 <= ask_guarded_2 ? above_bid_2 : 31'(ask_2);
      bid_3 <= bid_guarded_2 ? below_ask_2 : 31'(bid_2);
      {bid_size_3, ask_size_3} <= {bid_size_2, ask_size_2};
    end
    if (moves) out_tag <= tag_2;
  end
  // A side that is off shows neither price nor size.
  assign bid = flags[0] ? bid_3 : '0;
  assign ask = flags[1] ? ask_3 : '0;
  assign out_bid_size = flags[0] ? bid_size_3 : '0;
  assign out_ask_size = flags[1] ? ask_size_3 : '0;
endmodule
`default_nettype wire
