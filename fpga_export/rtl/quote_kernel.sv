// The quote kernel: states and books in, quotes out, registers and table pages on AXI-Lite.
//
// A book is answered after 3 cycles with the offsets of the last finished state; a state after 18, on the last
// book. Nothing is quoted after reset until the host has armed the kernel, a valid table page is active and a state has arrived,
// and no longer when the last state is older than max_age, `kill` is high or the host has killed it; then a message with both sides
// off is sent without waiting for a book.
`default_nettype none
module quote_kernel (
    input wire logic clk,
    input wire logic rst,
    // A level of at least two cycles, from any clock domain; CONTROL.arm is needed afterwards.
    input wire logic kill,

    input  wire logic                       s_valid,
    output logic                            s_ready,
    input  wire logic        [ 7:0]         s_tag,
    input  wire logic signed [3:0] s_inventory,
    input  wire logic        [15:0] s_time,
    input  wire logic        [11:0] s_risk,
    input  wire logic signed [9:0] s_skew,
    input  wire logic        [11:0] s_vpin,

    input  wire logic                       b_valid,
    output logic                            b_ready,
    input  wire logic        [30:0] b_bid,
    input  wire logic        [30:0] b_ask,

    // A waiting message stays as it is, except that a stop turns it into one with both sides off.
    output logic                            q_valid,
    input  wire logic                       q_ready,
    // {table version, tag of the state}
    output logic        [15:0]              q_tag,
    output logic signed [30:0] q_bid,
    output logic signed [30:0] q_ask,
    output logic        [15:0] q_bid_size,
    output logic        [15:0] q_ask_size,
    output logic        [5:0]               q_flags,

    input  wire logic        awvalid,
    output logic             awready,
    input  wire logic [ 7:0] awaddr,
    input  wire logic        wvalid,
    output logic             wready,
    input  wire logic [31:0] wdata,
    input  wire logic [ 3:0] wstrb,
    output logic             bvalid,
    input  wire logic        bready,
    output logic      [ 1:0] bresp,
    input  wire logic        arvalid,
    output logic             arready,
    input  wire logic [ 7:0] araddr,
    output logic             rvalid,
    input  wire logic        rready,
    output logic      [31:0] rdata,
    output logic      [ 1:0] rresp
);
  // Registers.
  logic signed [17:0] depth_min;
  logic signed [17:0] depth_max;
  logic  [11:0] vpin_gate;
  logic  [11:0] vpin_widen;
  logic  [12:0] vpin_stop;
  logic  [15:0] order_size;
  logic  [15:0] max_order_size;
  logic  [3:0] inventory_limit;
  logic signed [30:0] price_low;
  logic signed [30:0] price_high;
  logic  [0:0] saturated_stops;
  logic  [31:0] max_age;
  logic [31:0] status, load_data, load_crc, load_format, load_count;
  logic [7:0] load_version, active_version;
  logic [4:0] events;
  logic host_kill, arm, load_start, load_data_valid, load_commit, flip, changed, busy;
  quote_registers u_registers (
      .clk, .rst, .awvalid, .awready, .awaddr, .wvalid, .wready, .wdata, .wstrb, .bvalid, .bready, .bresp,
      .arvalid, .arready, .araddr, .rvalid, .rready, .rdata, .rresp,
      .status, .load_count, .version(active_version), .events, .busy,
      .kill(host_kill), .arm, .load_start, .load_data_valid, .load_data, .load_commit, .flip, .load_crc, .load_format, .load_version, .changed,
      .depth_min,
      .depth_max,
      .vpin_gate,
      .vpin_widen,
      .vpin_stop,
      .order_size,
      .max_order_size,
      .inventory_limit,
      .price_low,
      .price_high,
      .saturated_stops,
      .max_age
  );

  // Table pages.
  logic write, write_page, active, flipped, load_error, flip_error, table_valid;
  logic [1:0] write_bank;
  logic [11:0] write_address;
  logic [63:0] write_data;
  logic [1:0] page_valid;
  logic [15:0] versions;
  quote_loader u_loader (
      .clk, .rst, .start(load_start), .data_valid(load_data_valid), .data(load_data), .commit(load_commit), .flip,
      .expected_crc(load_crc), .expected_format(load_format), .version(load_version),
      .write, .write_page, .write_bank, .write_address, .write_data,
      .active, .page_valid, .versions, .count(load_count), .load_error, .flip_error, .flipped, .busy
  );
  assign table_valid = page_valid[active];
  assign active_version = active ? versions[15:8] : versions[7:0];

  // The last state is kept: new settings or a new page compute it again.
  logic flush, again, has_state, slow_valid;
  logic [7:0] last_tag;
  logic signed [3:0] last_inventory;
  logic [15:0] last_time;
  logic [11:0] last_risk;
  logic signed [9:0] last_skew;
  logic [11:0] last_vpin;
  logic [31:0] age;
  logic stale;
  assign flush = changed || flipped;
  assign s_ready = !rst;
  assign slow_valid = (s_valid && s_ready) || (again && has_state && !stale);
  always_ff @(posedge clk) begin
    if (rst) begin
      {has_state, again} <= '0;
      age <= '1;
      stale <= 1'b1;
    end else begin
      again <= flush;
      age <= s_valid ? 32'd0 : age == '1 ? age : age + 32'd1;
      stale <= age >= max_age;
      if (s_valid) has_state <= 1'b1;
    end
    if (s_valid) {last_tag, last_inventory, last_time, last_risk, last_skew, last_vpin} <= {s_tag, s_inventory, s_time, s_risk, s_skew, s_vpin};
  end

  // Slow path.
  logic offsets_valid, saturated_s;
  logic [15:0] tag_s;
  logic signed [8:0] ask_even_s, ask_odd_s, bid_even_s, bid_odd_s;
  logic [15:0] bid_size_s, ask_size_s;
  logic signed [17:0] ask_depth, bid_depth;
  quote_slow #(.TAG_BITS(16)) u_slow (
      // What an outdated state or old settings have started is forgotten; a state that has just come is not.
      .clk, .flush(flush || rst || (stale && age != 0)),
      .in_valid(slow_valid), .in_tag({active_version, s_valid ? s_tag : last_tag}), .in_page(active),
      .in_inventory(s_valid ? s_inventory : last_inventory), .in_time(s_valid ? s_time : last_time),
      .in_risk(s_valid ? s_risk : last_risk), .in_skew(s_valid ? s_skew : last_skew), .in_vpin(s_valid ? s_vpin : last_vpin),
      .depth_min, .depth_max, .vpin_gate, .vpin_widen, .vpin_stop, .order_size, .max_order_size, .inventory_limit, .saturated_stops,
      .write, .write_page, .write_bank, .write_address, .write_data,
      .out_valid(offsets_valid), .out_tag(tag_s), .ask_even(ask_even_s), .ask_odd(ask_odd_s), .bid_even(bid_even_s),
      .bid_odd(bid_odd_s), .bid_size(bid_size_s), .ask_size(ask_size_s), .saturated(saturated_s), .ask_depth, .bid_depth
  );
  logic unused_depths;
  assign unused_depths = ^{ask_depth, bid_depth};

  // Hand-over: all offsets of one state in one cycle.
  logic has_offsets, saturated_r;
  logic [15:0] tag_r;
  logic signed [8:0] ask_even_r, ask_odd_r, bid_even_r, bid_odd_r;
  logic [15:0] bid_size_r, ask_size_r;
  always_ff @(posedge clk) begin
    // New settings and a state that grew too old withdraw the quotes until offsets made since then arrive; a flip does not: the old
    // page's offsets serve until the new page's are there. In the cycle of the flip an old result meets the new page: not taken.
    if (rst || stale || changed) has_offsets <= 1'b0;
    else if (offsets_valid && table_valid && !flush) has_offsets <= 1'b1;
    if (offsets_valid && !flush) begin
      {ask_even_r, ask_odd_r, bid_even_r, bid_odd_r} <= {ask_even_s, ask_odd_s, bid_even_s, bid_odd_s};
      {bid_size_r, ask_size_r, saturated_r, tag_r} <= {bid_size_s, ask_size_s, saturated_s, tag_s};
    end
  end

  // Whether anything may be quoted.
  logic armed, live, live_before;
  (* ASYNC_REG = "TRUE" *) logic [1:0] kill_sync;
  assign live = armed && has_offsets && table_valid && !stale && !kill_sync[1];
  always_ff @(posedge clk) begin
    kill_sync <= {kill_sync[0], kill};
    live_before <= live;
    if (rst) begin
      armed <= 1'b0;
      live_before <= 1'b0;
      kill_sync <= 2'b11;
    end else if (kill_sync[1] || host_kill) begin
      armed <= 1'b0;
    end else if (arm) begin
      armed <= 1'b1;
    end
  end

  // Fast path: a book, or the last one again when offsets or permission have changed.
  logic has_book, due, fast_valid, fast_ready;
  logic [30:0] last_bid, last_ask;
  assign b_ready = fast_ready && !rst;
  assign fast_valid = b_valid || (due && has_book);
  always_ff @(posedge clk) begin
    if (rst) begin
      {has_book, due} <= '0;
    end else begin
      if (offsets_valid || live != live_before) due <= 1'b1;
      else if (fast_valid && fast_ready) due <= 1'b0;
      if (b_valid && b_ready) has_book <= 1'b1;
    end
    if (b_valid && b_ready) {last_bid, last_ask} <= {b_bid, b_ask};
  end
  quote_fast #(.TAG_BITS(16)) u_fast (
      .clk, .rst,
      .in_valid(fast_valid), .in_ready(fast_ready), .in_tag(tag_r), .in_live(live),
      .best_bid(b_valid ? b_bid : last_bid), .best_ask(b_valid ? b_ask : last_ask),
      .ask_even(ask_even_r), .ask_odd(ask_odd_r), .bid_even(bid_even_r), .bid_odd(bid_odd_r),
      .bid_size(bid_size_r), .ask_size(ask_size_r), .saturated(saturated_r),
      .live, .price_low, .price_high,
      .out_valid(q_valid), .out_ready(q_ready), .out_tag(q_tag), .bid(q_bid), .ask(q_ask),
      .out_bid_size(q_bid_size), .out_ask_size(q_ask_size), .flags(q_flags)
  );

  assign status = { 25'd0, live, page_valid, active, stale, has_state, armed};
  assign events = {q_valid && q_flags[3], flip_error, load_error, q_valid && q_flags[4], q_valid && q_flags[2]};
endmodule
`default_nettype wire
