// State -> offsets in whole ticks, 14 cycles, one state per cycle. Widths are proved in manifest.json, "operations".
`default_nettype none
module quote_slow #(
    parameter int TAG_BITS = 8
) (
    input wire logic clk,
    // Forget what is on its way: registers have changed.
    input wire logic flush,

    input wire logic                     in_valid,
    input wire logic        [TAG_BITS-1:0] in_tag,
    input wire logic                     in_page,
    input wire logic signed [3:0] in_inventory,
    input wire logic        [15:0] in_time,
    input wire logic        [11:0] in_risk,
    input wire logic signed [9:0] in_skew,
    input wire logic        [11:0] in_vpin,

    input wire logic signed [17:0] depth_min,
    input wire logic signed [17:0] depth_max,
    input wire logic        [11:0] vpin_gate,
    input wire logic        [11:0] vpin_widen,
    input wire logic        [12:0] vpin_stop,
    input wire logic        [15:0] order_size,
    input wire logic        [15:0] max_order_size,
    input wire logic        [3:0] inventory_limit,
    input wire logic                     saturated_stops,

    input wire logic        write,
    input wire logic        write_page,
    input wire logic [1:0] write_bank,
    input wire logic [11:0] write_address,
    input wire logic [63:0] write_data,

    output logic                     out_valid,
    output logic        [TAG_BITS-1:0] out_tag,
    output logic signed [8:0] ask_even,
    output logic signed [8:0] ask_odd,
    output logic signed [8:0] bid_even,
    output logic signed [8:0] bid_odd,
    output logic        [15:0] bid_size,
    output logic        [15:0] ask_size,
    output logic                     saturated,
    // Before rounding to ticks, 11 fraction bits: to be looked at, not needed.
    output logic signed [17:0] ask_depth,
    output logic signed [17:0] bid_depth
);
  localparam logic signed [3:0] Q = 3;
  localparam logic [11:0] RiskLast = 3839;
  localparam logic signed [9:0] SkewLow = -204;
  localparam logic signed [9:0] SkewHigh = 204;

  // Valid and tag go along.
  logic [13:0] valid;
  always_ff @(posedge clk) begin
    valid[0] <= in_valid;
    valid[13:1] <= flush ? '0 : valid[12:0];
  end
  assign out_valid = valid[13];
  quote_delay #(.W(TAG_BITS), .N(14)) u_tag (.clk, .d(in_tag), .q(out_tag));

  // Stage 1: clamp, find the segment of the time, how far VPIN is above its gate.
  logic signed [3:0] q_in;
  logic [11:0] risk_in;
  logic signed [9:0] skew_in;
  logic outside;
  always_comb begin
    q_in = in_inventory > Q ? Q : in_inventory < -Q ? -Q : in_inventory;
    risk_in = in_risk > RiskLast ? RiskLast : in_risk;
    skew_in = in_skew > SkewHigh ? SkewHigh : in_skew < SkewLow ? SkewLow : in_skew;
    outside = q_in != in_inventory || risk_in != in_risk || skew_in != in_skew;
  end
  logic [5:0] time_node_in;
  logic [11:0] time_place_in;
  always_comb begin
    time_node_in = 6'(in_time[9:7]);
    time_place_in = 12'(in_time[6:0]) << 5;
    if (in_time[10]) begin
      time_node_in = 6'({ 3'd1, in_time[9:7] });
      time_place_in = 12'(in_time[6:0]) << 5;
    end
    if (in_time[11]) begin
      time_node_in = 6'({ 3'd2, in_time[10:8] });
      time_place_in = 12'(in_time[7:0]) << 4;
    end
    if (in_time[12]) begin
      time_node_in = 6'({ 3'd3, in_time[11:9] });
      time_place_in = 12'(in_time[8:0]) << 3;
    end
    if (in_time[13]) begin
      time_node_in = 6'({ 3'd4, in_time[12:10] });
      time_place_in = 12'(in_time[9:0]) << 2;
    end
    if (in_time[14]) begin
      time_node_in = 6'({ 3'd5, in_time[13:11] });
      time_place_in = 12'(in_time[10:0]) << 1;
    end
    if (in_time[15]) begin
      time_node_in = 6'({ 3'd6, in_time[14:12] });
      time_place_in = 12'(in_time[11:0]) << 0;
    end
  end

  logic [3:0] risk_node_in;
  assign risk_node_in = risk_in[11:8];

  // One address a bank. The even bank holds a cell's even node, the odd one its odd node.
  logic [4:0] time_even, time_odd;
  assign time_even = 5'((time_node_in + 6'd1) >> 1);
  assign time_odd = time_node_in[5:1];
  logic [2:0] risk_even, risk_odd;
  assign risk_even = 3'((risk_node_in + 4'd1) >> 1);
  assign risk_odd = risk_node_in[3:1];
  logic [3:0] row_in;
  assign row_in = 4'(5'(q_in) + 5'(Q)) + (in_page ? 4'd7 : 4'd0);
  logic [11:0] address_0;
  always_ff @(posedge clk) address_0 <= {row_in, time_even, risk_even};
  logic [11:0] address_1;
  always_ff @(posedge clk) address_1 <= {row_in, time_odd, risk_even};
  logic [11:0] address_2;
  always_ff @(posedge clk) address_2 <= {row_in, time_even, risk_odd};
  logic [11:0] address_3;
  always_ff @(posedge clk) address_3 <= {row_in, time_odd, risk_odd};
  logic time_swap_1;
  logic [11:0] time_place_1;
  logic risk_swap_1;
  logic [7:0] risk_place_1;
  logic signed [9:0] skew_1;
  logic [11:0] excess_1;
  logic [15:0] size_1;
  logic signed [4:0] room_bid_1, room_ask_1;
  logic outside_1;
  always_ff @(posedge clk) begin
    time_swap_1 <= time_node_in[0];
    time_place_1 <= time_place_in;
    risk_swap_1 <= risk_node_in[0];
    risk_place_1 <= risk_in[7:0];
    skew_1 <= skew_in;
    excess_1 <= in_vpin > vpin_gate ? in_vpin - vpin_gate : '0;
    size_1 <= order_size > max_order_size || {1'b0, in_vpin} >= vpin_stop || (outside && saturated_stops) ? '0 : order_size;
    room_bid_1 <= signed'({1'b0, inventory_limit}) - 5'(q_in);
    room_ask_1 <= signed'({1'b0, inventory_limit}) + 5'(q_in);
    outside_1 <= outside;
  end

  // Stage 2: what else can be done beside the memory.
  logic [23:0] widening_2;
  logic [15:0] bid_size_2, ask_size_2;
  always_ff @(posedge clk) begin
    widening_2 <= excess_1 * vpin_widen;
    bid_size_2 <= room_bid_1 <= 0 ? '0 : 17'(unsigned'(room_bid_1)) < {1'b0, size_1} ? 16'(unsigned'(room_bid_1)) : size_1;
    ask_size_2 <= room_ask_1 <= 0 ? '0 : 17'(unsigned'(room_ask_1)) < {1'b0, size_1} ? 16'(unsigned'(room_ask_1)) : size_1;
  end

  // Stages 2 to 4: memory.
  logic [63:0] word_0;
  quote_bank #(.AW(12), .DW(64)) u_bank_0 (
      .clk,
      .write(write && write_bank == 2'd0),
      .write_address(write_page ? write_address + { 4'd7, 8'd0 } : write_address),
      .write_data,
      .address(address_0),
      .data(word_0)
  );
  // A number is narrower than its 16-bit lane.
  logic unused_word_0;
  assign unused_word_0 = ^word_0;
  logic [63:0] word_1;
  quote_bank #(.AW(12), .DW(64)) u_bank_1 (
      .clk,
      .write(write && write_bank == 2'd1),
      .write_address(write_page ? write_address + { 4'd7, 8'd0 } : write_address),
      .write_data,
      .address(address_1),
      .data(word_1)
  );
  // A number is narrower than its 16-bit lane.
  logic unused_word_1;
  assign unused_word_1 = ^word_1;
  logic [63:0] word_2;
  quote_bank #(.AW(12), .DW(64)) u_bank_2 (
      .clk,
      .write(write && write_bank == 2'd2),
      .write_address(write_page ? write_address + { 4'd7, 8'd0 } : write_address),
      .write_data,
      .address(address_2),
      .data(word_2)
  );
  // A number is narrower than its 16-bit lane.
  logic unused_word_2;
  assign unused_word_2 = ^word_2;
  logic [63:0] word_3;
  quote_bank #(.AW(12), .DW(64)) u_bank_3 (
      .clk,
      .write(write && write_bank == 2'd3),
      .write_address(write_page ? write_address + { 4'd7, 8'd0 } : write_address),
      .write_data,
      .address(address_3),
      .data(word_3)
  );
  // A number is narrower than its 16-bit lane.
  logic unused_word_3;
  assign unused_word_3 = ^word_3;

  // Stages 5 to 7: between the two nodes of time.
  logic time_swap;
  logic [11:0] time_place;
  quote_delay #(.W(13), .N(3)) u_time (
      .clk, .d({ time_swap_1, time_place_1 }), .q({ time_swap, time_place }));
  logic signed [15:0] ask_time_0;
  quote_lerp #(.W(15), .FB(12), .GUARD(1)) u_ask_time_0 (
      .clk, .even(signed'(word_0[14:0])), .odd(signed'(word_1[14:0])), .swap(time_swap), .place(time_place), .value(ask_time_0));
  logic signed [15:0] ask_time_1;
  quote_lerp #(.W(15), .FB(12), .GUARD(1)) u_ask_time_1 (
      .clk, .even(signed'(word_2[14:0])), .odd(signed'(word_3[14:0])), .swap(time_swap), .place(time_place), .value(ask_time_1));
  logic signed [15:0] bid_time_0;
  quote_lerp #(.W(15), .FB(12), .GUARD(1)) u_bid_time_0 (
      .clk, .even(signed'(word_0[30:16])), .odd(signed'(word_1[30:16])), .swap(time_swap), .place(time_place), .value(bid_time_0));
  logic signed [15:0] bid_time_1;
  quote_lerp #(.W(15), .FB(12), .GUARD(1)) u_bid_time_1 (
      .clk, .even(signed'(word_2[30:16])), .odd(signed'(word_3[30:16])), .swap(time_swap), .place(time_place), .value(bid_time_1));
  logic signed [15:0] ask_slope_time_0;
  quote_lerp #(.W(15), .FB(12), .GUARD(1)) u_ask_slope_time_0 (
      .clk, .even(signed'(word_0[46:32])), .odd(signed'(word_1[46:32])), .swap(time_swap), .place(time_place), .value(ask_slope_time_0));
  logic signed [15:0] ask_slope_time_1;
  quote_lerp #(.W(15), .FB(12), .GUARD(1)) u_ask_slope_time_1 (
      .clk, .even(signed'(word_2[46:32])), .odd(signed'(word_3[46:32])), .swap(time_swap), .place(time_place), .value(ask_slope_time_1));
  logic signed [15:0] bid_slope_time_0;
  quote_lerp #(.W(15), .FB(12), .GUARD(1)) u_bid_slope_time_0 (
      .clk, .even(signed'(word_0[62:48])), .odd(signed'(word_1[62:48])), .swap(time_swap), .place(time_place), .value(bid_slope_time_0));
  logic signed [15:0] bid_slope_time_1;
  quote_lerp #(.W(15), .FB(12), .GUARD(1)) u_bid_slope_time_1 (
      .clk, .even(signed'(word_2[62:48])), .odd(signed'(word_3[62:48])), .swap(time_swap), .place(time_place), .value(bid_slope_time_1));

  // Stages 8 to 10: between the two nodes of risk.
  logic risk_swap;
  logic [7:0] risk_place;
  quote_delay #(.W(9), .N(6)) u_risk (
      .clk, .d({ risk_swap_1, risk_place_1 }), .q({ risk_swap, risk_place }));
  logic signed [15:0] ask_final;
  quote_lerp #(.W(16), .FB(8), .GUARD(0)) u_ask_final (
      .clk, .even(ask_time_0), .odd(ask_time_1), .swap(risk_swap), .place(risk_place), .value(ask_final));
  logic signed [15:0] bid_final;
  quote_lerp #(.W(16), .FB(8), .GUARD(0)) u_bid_final (
      .clk, .even(bid_time_0), .odd(bid_time_1), .swap(risk_swap), .place(risk_place), .value(bid_final));
  logic signed [15:0] ask_slope_final;
  quote_lerp #(.W(16), .FB(8), .GUARD(0)) u_ask_slope_final (
      .clk, .even(ask_slope_time_0), .odd(ask_slope_time_1), .swap(risk_swap), .place(risk_place), .value(ask_slope_final));
  logic signed [15:0] bid_slope_final;
  quote_lerp #(.W(16), .FB(8), .GUARD(0)) u_bid_slope_final (
      .clk, .even(bid_slope_time_0), .odd(bid_slope_time_1), .swap(risk_swap), .place(risk_place), .value(bid_slope_final));

  // Stage 11: derivative times skew.
  logic signed [9:0] skew_l;
  quote_delay #(.W(10), .N(9)) u_skew_l (.clk, .d(skew_1), .q(skew_l));
  localparam logic signed [25:0] SkewHalf = 26'(1) <<< 10;
  logic signed [25:0] ask_tilt, bid_tilt;
  logic signed [15:0] ask_value, bid_value;
  always_ff @(posedge clk) begin
    ask_tilt <= 26'(ask_slope_final) * 26'(skew_l);
    bid_tilt <= 26'(bid_slope_final) * 26'(skew_l);
    ask_value <= ask_final;
    bid_value <= bid_final;
  end

  // Stage 12: depth, skew and widening.
  logic [17:0] widening_l;
  localparam logic [24:0] WidenHalf = 25'd1 << 8;
  quote_delay #(.W(18), .N(9)) u_widening (
      .clk, .d(18'(({1'b0, widening_2} + WidenHalf) >> 9)), .q(widening_l));
  logic signed [17:0] ask_sum, bid_sum;
  always_ff @(posedge clk) begin
    ask_sum <= 18'(ask_value) + 18'((ask_tilt + SkewHalf) >>> 11) + 18'(signed'(widening_l));
    bid_sum <= 18'(bid_value) + 18'((bid_tilt + SkewHalf) >>> 11) + 18'(signed'(widening_l));
  end

  // Stage 13: limits. The only place where a depth saturates.
  logic signed [17:0] highest, lowest;
  assign highest = 18'(depth_max);
  assign lowest = 18'(depth_min);
  logic signed [17:0] ask_limited, bid_limited;
  always_ff @(posedge clk) begin
    ask_limited <= ask_sum > highest ? depth_max : ask_sum < lowest ? depth_min : 18'(ask_sum);
    bid_limited <= bid_sum > highest ? depth_max : bid_sum < lowest ? depth_min : 18'(bid_sum);
  end

  // Stage 14: whole ticks away from the mid, for an even and an odd sum of the book's prices.
  localparam logic signed [19:0] AllBelow = 2047;
  localparam logic signed [19:0] HalfTick = 1024;
  always_ff @(posedge clk) begin
    ask_even <= 9'((20'(ask_limited) + AllBelow) >>> 11);
    ask_odd <= 9'((20'(ask_limited) + HalfTick + AllBelow) >>> 11);
    bid_even <= 9'((20'sd0 - 20'(bid_limited)) >>> 11);
    bid_odd <= 9'((HalfTick - 20'(bid_limited)) >>> 11);
    ask_depth <= ask_limited;
    bid_depth <= bid_limited;
  end
  quote_delay #(.W(32), .N(12)) u_sizes (.clk, .d({bid_size_2, ask_size_2}), .q({bid_size, ask_size}));
  quote_delay #(.W(1), .N(13)) u_outside (.clk, .d(outside_1), .q(saturated));
endmodule
`default_nettype wire
