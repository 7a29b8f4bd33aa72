// Slow and fast path one behind the other, a state and a book every cycle, against the golden vectors and digests.
// Also measures both latencies and the cycles a vector takes. Plain SystemVerilog: any simulator runs it, from the project's folder.
`timescale 1ns / 1ps
module quote_core_tb;
  localparam int NDirected = 944;
  localparam int NBlocks = 249;
  localparam int Block = 4096;
  localparam int NNodes = 19152;
  localparam int NOut = 10;
  localparam int Ring = 64;

  logic clk = 1'b0;
  always #1 clk = !clk;

  logic [255:0] directed[NDirected];
  logic [32*NOut-1:0] expected[NDirected];
  logic [31:0] digests[NBlocks];
  logic [32*11-1:0] sets[4];
  logic [63:0] bank_0[1792];
  logic [63:0] bank_1[1792];
  logic [63:0] bank_2[1792];
  logic [63:0] bank_3[1792];
  initial begin
    $readmemh("vectors/in.mem", directed);
    $readmemh("vectors/out.mem", expected);
    $readmemh("vectors/digests.mem", digests);
    $readmemh("vectors/registers.mem", sets);
    $readmemh("tables/bank0.mem", bank_0);
    $readmemh("tables/bank1.mem", bank_1);
    $readmemh("tables/bank2.mem", bank_2);
    $readmemh("tables/bank3.mem", bank_3);
  end

  function automatic logic [31:0] mix(input logic [31:0] x);
    logic [31:0] y;
    y = (x ^ (x >> 16)) * 32'h7FEB352D;
    y = (y ^ (y >> 15)) * 32'h846CA68B;
    mix = y ^ (y >> 16);
  endfunction

  function automatic int clipped(input int x, input int low, input int high);
    clipped = x < low ? low : x > high ? high : x;
  endfunction

  // Inputs.
  logic in_valid = 1'b0, write = 1'b0;
  logic signed [3:0] inventory;
  logic [15:0] time_left;
  logic [11:0] risk;
  logic signed [9:0] skew;
  logic [11:0] vpin;
  logic [30:0] bids[Ring], asks[Ring];
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
  logic [1:0] write_bank = '0;
  logic [11:0] write_address = '0;
  logic [63:0] write_data = '0;

  // Slow path.
  logic s_valid, saturated;
  logic [7:0] s_tag, f_tag;
  logic signed [8:0] ask_even, ask_odd, bid_even, bid_odd;
  logic [15:0] bid_size, ask_size;
  logic signed [17:0] ask_depth, bid_depth;
  logic [5:0] fed = '0, at_fast = '0, at_end = '0;
  quote_slow u_slow (
      .clk, .flush(1'b0), .in_valid, .in_tag({2'b00, fed}), .in_page(1'b0), .in_inventory(inventory), .in_time(time_left), .in_risk(risk),
      .in_skew(skew), .in_vpin(vpin), .depth_min, .depth_max, .vpin_gate, .vpin_widen, .vpin_stop, .order_size, .max_order_size,
      .inventory_limit, .saturated_stops, .write, .write_page(1'b0), .write_bank, .write_address, .write_data, .out_valid(s_valid), .out_tag(s_tag),
      .ask_even, .ask_odd, .bid_even, .bid_odd, .bid_size, .ask_size, .saturated, .ask_depth, .bid_depth
  );

  // Fast path; it sees a book in the cycle in which its state's offsets arrive.
  logic f_valid, f_ready;
  logic rst = 1'b1;
  logic signed [30:0] bid, ask;
  logic [15:0] out_bid_size, out_ask_size;
  logic [5:0] flags;
  quote_fast u_fast (
      .clk, .rst, .in_valid(s_valid), .in_ready(f_ready), .in_tag(s_tag), .in_live(1'b1), .best_bid(bids[at_fast]),
      .best_ask(asks[at_fast]), .ask_even, .ask_odd, .bid_even, .bid_odd, .bid_size, .ask_size, .saturated, .live(1'b1), .price_low,
      .price_high, .out_valid(f_valid), .out_ready(1'b1), .out_tag(f_tag), .bid, .ask, .out_bid_size, .out_ask_size, .flags
  );

  // Results, compared vector by vector or hashed.
  logic [32*NOut-1:0] found;
  logic [191:0] middle[Ring];
  logic [31:0] hash;
  logic restart = 1'b0;
  int n_out = 0, wrong_out = 0, wrong_run = 0, cycle = 0, first_in = -1, first_offsets = -1, first_out = -1, last_out = 0;
  assign found = {middle[at_end], 27'd0, flags[4:0], out_bid_size, out_ask_size, 32'(ask), 32'(bid)};
  always @(posedge clk) begin
    if (restart) hash = 32'h811C9DC5;
    if (s_valid) begin
      middle[at_fast] = {32'(bid_depth), 32'(ask_depth), 32'(bid_odd), 32'(bid_even), 32'(ask_odd), 32'(ask_even)};
      if (first_offsets < 0) first_offsets = cycle;
      if (s_tag != {2'b00, at_fast}) wrong_out++;
    end
    if (f_valid) begin
      last_out = cycle;
      if (first_out < 0) first_out = cycle;
      if (!flags[5] || !f_ready || f_tag != {2'b00, at_end}) wrong_out++;
      for (int i = 0; i < NOut; i++) hash = (hash ^ found[32*i+:32]) * 32'h01000193;
      if (n_out < NDirected && found !== expected[n_out]) begin
        wrong_out++;
        if (wrong_out < 10) $display("vector %0d: %h, expected %h", n_out, found, expected[n_out]);
      end
      n_out++;
    end
    cycle++;
  end
  always_ff @(posedge clk) begin
    if (s_valid) at_fast <= at_fast + 6'd1;
    if (f_valid) at_end <= at_end + 6'd1;
  end

  task automatic use_registers(input int set);
    depth_min = sets[set][0+:18];
    depth_max = sets[set][32+:18];
    vpin_gate = sets[set][64+:12];
    vpin_widen = sets[set][96+:12];
    vpin_stop = sets[set][128+:13];
    order_size = sets[set][160+:16];
    max_order_size = sets[set][192+:16];
    inventory_limit = sets[set][224+:4];
    price_low = sets[set][256+:31];
    price_high = sets[set][288+:31];
    saturated_stops = sets[set][320+:1];
  endtask

  task automatic feed(input logic [31:0] w_inventory, input logic [31:0] w_time, input logic [31:0] w_risk, input logic [31:0] w_skew,
                      input logic [31:0] w_vpin, input logic [31:0] w_bid, input logic [31:0] w_ask);
    in_valid = 1'b1;
    inventory = w_inventory[3:0];
    time_left = w_time[15:0];
    risk = w_risk[11:0];
    skew = w_skew[9:0];
    vpin = w_vpin[11:0];
    bids[fed] = w_bid[30:0];
    asks[fed] = w_ask[30:0];
    @(negedge clk);
    fed = fed + 6'd1;
    in_valid = 1'b0;
  endtask

  task automatic counted(input int number);
    logic [31:0] w[7];
    int q, t, v, a, left, step, b;
    int time_node;
    int risk_node;
    for (int j = 0; j < 7; j++) w[j] = mix(32'd24301 + 32'(16 * number + j));
    q = int'(signed'(w[0][3:0]));
    t = int'(w[1][15:0]) >> w[1][18:16];
    v = int'(w[2][11:0]);
    a = int'(signed'(w[3][9:0]));
    b = 1 + int'(w[5][28:0]);
    if (number < NNodes) begin
      left = number;
      q = left % 7 - 3;
      left = left / 7;
      time_node = left % 57;
      left = left / 57;
      risk_node = left % 16;
      left = left / 16;
      step = left % 3 - 1;
      t = time_node < 8 ? time_node << 7
          : ((time_node & 7) + 8) << (6 + (time_node >> 3));
      t = clipped(t + step, 0, 65535);
      v = clipped((risk_node << 8) + step, 0, 4095);
    end
    feed(q, t, v, a, 32'(w[4][11:0]), b, clipped(b + int'(w[6][5:0]) - 4, 1, 32'h7FFFFFFF));
  endtask

  int set, start;
  initial begin
    use_registers(0);
    repeat (4) @(negedge clk);
    rst = 1'b0;
    write = 1'b1;
    for (int i = 0; i < 1792; i++) begin
      write_address = 12'(i);
      write_bank = 2'd0;
      write_data = bank_0[i];
      @(negedge clk);
      write_bank = 2'd1;
      write_data = bank_1[i];
      @(negedge clk);
      write_bank = 2'd2;
      write_data = bank_2[i];
      @(negedge clk);
      write_bank = 2'd3;
      write_data = bank_3[i];
      @(negedge clk);
    end
    write = 1'b0;
    set = 0;
    for (int i = 0; i < NDirected; i++) begin
      if (int'(directed[i][31:0]) != set) begin
        // Registers are not changed under vectors on their way.
        repeat (21) @(negedge clk);
        set = int'(directed[i][31:0]);
        use_registers(set);
      end
      if (first_in < 0) first_in = cycle;
      feed(directed[i][63:32], directed[i][95:64], directed[i][127:96], directed[i][159:128], directed[i][191:160], directed[i][223:192],
           directed[i][255:224]);
    end
    repeat (21) @(negedge clk);
    for (int block = 0; block < NBlocks; block++) begin
      use_registers(block % 4);
      restart = 1'b1;
      @(negedge clk);
      restart = 1'b0;
      start = cycle;
      for (int i = 0; i < Block; i++) counted(block * Block + i);
      repeat (21) @(negedge clk);
      if (hash !== digests[block]) begin
        wrong_run++;
        if (wrong_run < 10) $display("block %0d: digest %h, expected %h", block, hash, digests[block]);
      end
      if (last_out - start != Block - 1 + 17) begin
        wrong_run++;
        if (wrong_run < 10) $display("block %0d took %0d cycles: not one vector a cycle", block, last_out - start);
      end
    end
    if (n_out != NDirected + NBlocks * Block) wrong_run++;
    if (first_offsets - first_in != 14 || first_out - first_offsets != 3) begin
      wrong_run++;
      $display("latencies differ from the manifest's 14 and 3");
    end
    $display("%s: %0d vectors, %0d mismatches; slow path %0d cycles, fast path %0d cycles, II = 1", wrong_out + wrong_run == 0 ? "PASS" : "FAIL", n_out, wrong_out + wrong_run,
             first_offsets - first_in, first_out - first_offsets);
    if (wrong_out + wrong_run != 0) $fatal(1, "core");
    $finish;
  end
endmodule
