// The whole kernel through its ports: reset, loading, streams with back-pressure, a page flip under load, and every stop.
`timescale 1ns / 1ps
module quote_kernel_tb;
  localparam int N = 64;
  localparam int Latency = 18;
  logic clk = 1'b0;
  always #1 clk = !clk;

  // {burst, other page, page, book, state}: see "vectors" in the README.
  logic [32*19-1:0] scenario[N];
  logic [63:0] bank_0[1792];
  logic [63:0] bank_1[1792];
  logic [63:0] bank_2[1792];
  logic [63:0] bank_3[1792];
  localparam int NDirected = 944;
  logic [255:0] directed[NDirected];
  logic [32*10-1:0] expected[NDirected];
  initial begin
    $readmemh("vectors/in.mem", directed);
    $readmemh("vectors/out.mem", expected);
    $readmemh("vectors/scenario.mem", scenario);
    $readmemh("tables/bank0.mem", bank_0);
    $readmemh("tables/bank1.mem", bank_1);
    $readmemh("tables/bank2.mem", bank_2);
    $readmemh("tables/bank3.mem", bank_3);
  end

  logic rst = 1'b1, kill = 1'b0;
  logic s_valid = 1'b0, s_ready, b_valid = 1'b0, b_ready, q_valid, q_ready = 1'b1;
  logic [7:0] s_tag = '0;
  logic signed [3:0] s_inventory = '0;
  logic [15:0] s_time = '0;
  logic [11:0] s_risk = '0;
  logic signed [9:0] s_skew = '0;
  logic [11:0] s_vpin = '0;
  logic [30:0] b_bid = '0, b_ask = '0;
  logic [15:0] q_tag;
  logic signed [30:0] q_bid, q_ask;
  logic [15:0] q_bid_size, q_ask_size;
  logic [5:0] q_flags;
  logic awvalid = 1'b0, awready, wvalid = 1'b0, wready, bvalid, bready = 1'b1, arvalid = 1'b0, arready, rvalid, rready = 1'b1;
  logic [7:0] awaddr = '0, araddr = '0;
  logic [31:0] wdata = '0, rdata;
  logic [3:0] wstrb = 4'hF;
  logic [1:0] bresp, rresp;
  quote_kernel dut (.*);

  int failures = 0, n_checks = 0;
  task automatic check(input logic good, input string what);
    n_checks++;
    if (good !== 1'b1) begin
      failures++;
      if (failures < 20) $display("%0t %s: bid %0d x %0d, ask %0d x %0d, flags %b, tag %h", $time, what, q_bid, q_bid_size, q_ask, q_ask_size, q_flags, q_tag);
    end
  endtask

  // AXI-Lite.
  logic [1:0] response;
  task automatic write(input logic [7:0] address, input logic [31:0] data);
    awvalid = 1'b1;
    wvalid = 1'b1;
    awaddr = address;
    wdata = data;
    #0.1;
    while (!awready) begin
      @(negedge clk);
      #0.1;
    end
    @(negedge clk);
    awvalid = 1'b0;
    wvalid = 1'b0;
    while (!bvalid) @(negedge clk);
    response = bresp;
    @(negedge clk);
  endtask
  logic [31:0] answer;
  task automatic read(input logic [7:0] address);
    arvalid = 1'b1;
    araddr = address;
    while (!arready) @(negedge clk);
    @(negedge clk);
    arvalid = 1'b0;
    while (!rvalid) @(negedge clk);
    answer = rdata;
    response = rresp;
    @(negedge clk);
  endtask
  task automatic control(input logic [31:0] bits);
    write(8'h0C, bits);
    // A pulse, its effect, and the bit that notes it.
    idle(3);
  endtask

  task automatic idle(input int cycles);
    repeat (cycles) @(negedge clk);
  endtask

  task automatic state(input logic [7:0] tag, input logic [159:0] x);
    s_valid = 1'b1;
    s_tag = tag;
    s_inventory = x[3:0];
    s_time = x[47:32];
    s_risk = x[75:64];
    s_skew = x[105:96];
    s_vpin = x[139:128];
    @(negedge clk);
    s_valid = 1'b0;
  endtask
  task automatic book(input logic [63:0] x);
    b_valid = 1'b1;
    b_bid = x[30:0];
    b_ask = x[62:32];
    #0.1;
    while (!b_ready) begin
      @(negedge clk);
      #0.1;
    end
    @(negedge clk);
    b_valid = 1'b0;
  endtask

  function automatic logic equal(input logic [127:0] x);
    equal = 32'(q_bid) == x[31:0] && 32'(q_ask) == x[63:32] && {q_bid_size, q_ask_size} == x[95:64] && q_flags[4:0] == x[100:96];
  endfunction
  function automatic logic nothing(input logic unused);
    nothing = q_bid == 0 && q_ask == 0 && q_bid_size == 0 && q_ask_size == 0 && q_flags[1:0] == 2'b00 && !q_flags[5] && !unused;
  endfunction
  // Waits for a message that must come.
  task automatic message(input string what);
    int patience;
    patience = 100;
    while (!q_valid && patience > 0) begin
      @(negedge clk);
      patience--;
    end
    check(q_valid, {what, ": no message"});
  endtask

  // Messages with other expectations are looked at where they come by.
  int watch = 0, n_watched = 0, n_new = 0;
  always @(negedge clk) begin
    if (q_valid && q_ready) begin
      if (watch == 1) begin
        check(nothing(1'b0), "quoted though it must not");
        n_watched++;
      end
      if (watch == 3) begin
        check(!q_flags[5] || q_tag[15:8] == 8'd1, "a quote of a page that was never loaded");
        if (q_flags[5]) n_watched++;
      end
      if (watch == 4) begin
        check(!q_flags[5] || q_tag[7:0] == 8'd77, "a quote of an outdated state");
        if (q_flags[5]) n_watched++;
      end
      if (watch == 2) begin
        // Every quote belongs wholly to one page: the one its tag names.
        check(equal(q_tag[15:8] == 8'd1 ? scenario[6'(q_tag[7:0])][32*7+:128] : scenario[6'(q_tag[7:0])][32*11+:128]), "a quote of no page");
        check(q_tag[15:8] == 8'd1 || q_tag[15:8] == 8'd2, "a page that does not exist");
        n_watched++;
        if (q_tag[15:8] == 8'd2) n_new++;
      end
    end
  end

  // Loads a page; `constant` fills it with one depth.
  task automatic load(input logic constant, input logic [31:0] crc, input logic [7:0] number, input logic [31:0] format, input int n_words);
    logic [63:0] entry;
    int sent;
    control(32'h08);
    write(8'h54, crc);
    write(8'h58, 32'(number));
    write(8'h5C, format);
    sent = 0;
    for (int b = 0; b < 4; b++)
      for (int i = 0; i < 1792; i++) begin
        if (b == 0) entry = bank_0[i];
        if (b == 1) entry = bank_1[i];
        if (b == 2) entry = bank_2[i];
        if (b == 3) entry = bank_3[i];
        if (constant) entry = {32'd0, 16'd2048, 16'd2048};
        if (sent < n_words) write(8'h50, entry[31:0]);
        sent++;
        if (sent < n_words) write(8'h50, entry[63:32]);
        sent++;
      end
    control(32'h10);
    idle(4);
  endtask

  int waited, got, part = 0;
  initial begin
    #2433600;
    $display("FAIL: hangs in part %0d", part);
    $fatal(1, "hang");
  end
  initial begin
    idle(5);
    rst = 1'b0;
    idle(2);
    read(8'h00);
    check(answer == 32'h4D464D4B && response == 2'b00, "identity");
    read(8'h04);
    check(answer == 32'h12187EBE, "format");
    read(8'hF0);
    check(response == 2'b10, "unknown address");
    write(8'hF0, 32'd1);
    check(response == 2'b10, "unknown address written");
    read(8'h20);
    check(answer[17:0] == 18'h400, "reset value of depth_min");
    read(8'h24);
    check(answer[17:0] == 18'ha000, "reset value of depth_max");
    read(8'h28);
    check(answer[11:0] == 12'hfff, "reset value of vpin_gate");
    read(8'h2C);
    check(answer[11:0] == 12'h0, "reset value of vpin_widen");
    read(8'h30);
    check(answer[12:0] == 13'hb34, "reset value of vpin_stop");
    read(8'h34);
    check(answer[15:0] == 16'h1, "reset value of order_size");
    read(8'h38);
    check(answer[15:0] == 16'h1, "reset value of max_order_size");
    read(8'h3C);
    check(answer[3:0] == 4'h3, "reset value of inventory_limit");
    read(8'h40);
    check(answer[30:0] == 31'h1, "reset value of price_low");
    read(8'h44);
    check(answer[30:0] == 31'h3fffffff, "reset value of price_high");
    read(8'h48);
    check(answer[0:0] == 1'h0, "reset value of saturated_stops");
    read(8'h4C);
    check(answer[31:0] == 32'h9896800, "reset value of max_age");

    // Nothing is quoted before the kernel is armed, a page is valid and a state has come.
    part = 1;
    watch = 1;
    state(8'd0, directed[0][191:32]);
    idle(Latency + 4);
    book(directed[0][255:192]);
    idle(10);
    check(n_watched > 0, "a book before arming must be answered");
    control(32'h02);
    control(32'h20);
    read(8'h14);
    check(answer[3], "flip to an empty page must be refused");
    // Damaged, short and foreign tables are refused.
    part = 2;
    load(1'b0, 32'hF1A43C9A ^ 32'd1, 8'd1, 32'h12187EBE, 14336);
    read(8'h14);
    check(answer[2], "a wrong checksum must be seen");
    write(8'h14, 32'h3F);
    load(1'b0, 32'hF1A43C9A, 8'd1, 32'h12187EBE ^ 32'd1, 14336);
    read(8'h14);
    check(answer[2], "a foreign format must be seen");
    write(8'h14, 32'h3F);
    load(1'b0, 32'hF1A43C9A, 8'd1, 32'h12187EBE, 14335);
    read(8'h14);
    check(answer[2], "a short table must be seen");
    control(32'h20);
    read(8'h10);
    check(answer[5:4] == 2'b00, "no page may be valid");
    write(8'h14, 32'h3F);
    read(8'h14);
    check(answer == 0, "sticky bits must clear");
    load(1'b0, 32'hF1A43C9A, 8'd1, 32'h12187EBE, 14336);
    read(8'h60);
    check(answer == 32'd14336, "words received");
    book(directed[0][255:192]);
    idle(20);
    // The first flip comes while states stream in: nothing of the page that was never loaded is quoted.
    watch = 3;
    n_watched = 0;
    waited = 0;
    fork
      begin
        idle(40);
        control(32'h20);
        idle(40);
        waited = 1;
      end
      while (waited == 0) state(8'd0, directed[0][191:32]);
    join
    check(n_watched > 10, "the first page must quote");
    watch = 0;
    read(8'h18);
    check(answer == 1, "version");
    idle(Latency + 10);

    // Every explicit vector of the kernel's own settings, one at a time; the receiver takes its time.
    part = 3;
    for (int i = 0; i < NDirected; i++)
      if (directed[i][31:0] == 0) begin
        state(8'(i), directed[i][191:32]);
        q_ready = 1'b1;
        idle(Latency + 6);
        q_ready = 1'b0;
        book(directed[i][255:192]);
        idle(2 + i % 5);
        message("directed vector");
        check(equal({expected[i][127:0]}) && q_flags[5] && q_tag == {8'd1, 8'(i)}, "directed vector");
        q_ready = 1'b1;
        @(negedge clk);
      end
    read(8'h14);
    check(answer[1:0] == 2'b11, "saturation and crossed books must have been noted");

    // A state is answered without a book, on the last one, after the stated number of cycles.
    part = 4;
    idle(10);
    waited = 0;
    state(8'd1, directed[0][191:32]);
    while (!q_valid && waited < 100) begin
      @(negedge clk);
      waited++;
    end
    check(waited == Latency - 1, "cycles from state to quote");
    idle(5);
    waited = 0;
    book({32'd102, 32'd100});
    while (!q_valid && waited < 100) begin
      @(negedge clk);
      waited++;
    end
    check(waited == 2, "cycles from book to quote");

    // Books in a burst against a receiver that stalls at random: none lost, doubled or out of order.
    part = 5;
    idle(10);
    state(8'd0, scenario[0][159:0]);
    idle(Latency + 10);
    got = 0;
    fork
      for (int i = 0; i < N; i++) book(scenario[i][223:160]);
      while (got < N) begin
        q_ready = $urandom_range(0, 2) == 0;
        #0.1;
        if (q_valid && q_ready) begin
          check(equal(scenario[got][32*15+:128]), "burst of books");
          got++;
        end
        @(negedge clk);
      end
    join
    q_ready = 1'b1;
    idle(10);
    check(!q_valid, "a message too many");

    // The other page is loaded and flipped to while states stream in: every quote belongs to one page.
    part = 6;
    book(scenario[0][223:160]);
    for (int i = 0; i < 20; i++) state(8'd0, scenario[0][159:0]);
    idle(Latency + 4);
    watch = 2;
    waited = 0;
    fork
      begin
        load(1'b1, 32'hB0F8C106, 8'd2, 32'h12187EBE, 14336);
        control(32'h20);
        idle(100);
        waited = 1;
      end
      for (int i = 0; waited == 0; i++) begin
        state(8'(i % N), scenario[i%N][159:0]);
        if (i % 3 == 0) book(scenario[0][223:160]);
      end
      begin
        while (waited == 0) begin
          q_ready = $urandom_range(0, 3) != 0;
          @(negedge clk);
        end
        q_ready = 1'b1;
      end
    join
    q_ready = 1'b1;
    idle(Latency + 4);
    watch = 0;
    check(n_new > 20 && n_watched - n_new > 1000, "both pages must have quoted");
    part = 7;
    read(8'h10);
    check(answer[6:0] == 7'b1110011, "status after the flip");
    // Without a new state the last one is quoted from the new page.
    part = 8;
    state(8'd5, scenario[5][159:0]);
    idle(Latency + 6);
    control(32'h20);
    idle(Latency + 6);
    q_ready = 1'b0;
    book(scenario[0][223:160]);
    message("after the flip back");
    check(equal(scenario[5][32*7+:128]) && q_tag == 16'h0105, "a flip must quote the last state anew");
    q_ready = 1'b1;
    @(negedge clk);

    // Kill switch by pin: a message with both sides off, at once, also where one was waiting; then nothing until armed again.
    part = 9;
    idle(10);
    q_ready = 1'b0;
    book(directed[0][255:192]);
    message("before the stop");
    check(q_flags[5], "live before the stop");
    kill = 1'b1;
    idle(4);
    check(q_valid && nothing(1'b0), "a waiting quote must be taken back");
    q_ready = 1'b1;
    @(negedge clk);
    message("stop");
    check(nothing(1'b0), "stop");
    kill = 1'b0;
    watch = 1;
    idle(10);
    book(directed[0][255:192]);
    state(8'd9, directed[0][191:32]);
    idle(Latency + 10);
    watch = 0;
    control(32'h02);
    message("armed again");
    idle(3);
    q_ready = 1'b0;
    book(directed[0][255:192]);
    message("armed again");
    check(q_flags[5] && equal(expected[0][127:0]), "armed again");
    q_ready = 1'b1;
    idle(4);
    // Three books wait behind a slow receiver when the stop comes; armed again, none of them is quoted.
    idle(10);
    q_ready = 1'b0;
    for (int i = 0; i < 3; i++) book({32'd110 + 32'(i), 32'd100 + 32'(i)});
    kill = 1'b1;
    idle(5);
    kill = 1'b0;
    idle(5);
    control(32'h02);
    for (int i = 0; i < 3; i++) begin
      message("waiting book");
      check(nothing(1'b0), "a book from before the stop must not be quoted");
      q_ready = 1'b1;
      @(negedge clk);
      q_ready = 1'b0;
    end
    q_ready = 1'b1;
    idle(10);
    // Kill switch by register.
    part = 10;
    control(32'h04);
    watch = 1;
    idle(10);
    book(directed[0][255:192]);
    idle(10);
    watch = 0;
    control(32'h02);
    idle(10);

    // A state older than max_age stops quoting by itself.
    part = 11;
    write(8'h4C, 32'd60);
    control(32'h01);
    idle(10);
    state(8'd3, directed[0][191:32]);
    idle(Latency + 4);
    read(8'h10);
    check(answer[6] && !answer[2], "a fresh state must be live");
    got = 0;
    repeat (80) begin
      @(negedge clk);
      if (q_valid && nothing(1'b0)) got++;
    end
    check(got == 1, "one message when the state becomes too old");
    read(8'h10);
    check(!answer[6] && answer[2], "an old state must be stale");
    // A new state does not bring the old one's quotes back.
    watch = 4;
    n_watched = 0;
    state(8'd77, directed[0][191:32]);
    idle(3);
    book(directed[0][255:192]);
    idle(Latency + 10);
    check(n_watched > 0, "quotes must resume with the new state");
    watch = 0;
    // Settings written without pause cannot keep an old state's quotes alive.
    state(8'd78, directed[0][191:32]);
    idle(Latency + 10);
    n_watched = 0;
    fork
      for (int i = 0; i < 120; i++) begin
        awvalid = 1'b1;
        wvalid = 1'b1;
        awaddr = 8'h0C;
        wdata = 32'd1;
        @(negedge clk);
        // The first of them has withdrawn the quotes by now.
        if (i == 8) watch = 1;
      end
      for (int i = 0; i < 120; i++) begin
        state(8'd79, directed[0][191:32]);
        if (i % 4 == 3) book(directed[0][255:192]);
      end
    join
    awvalid = 1'b0;
    wvalid = 1'b0;
    check(n_watched > 5, "books must be answered");
    watch = 0;
    idle(10);
    write(8'h4C, 32'hFFFFFFFF);
    control(32'h01);
    state(8'd3, directed[0][191:32]);
    idle(Latency + 10);

    // What a register cannot hold is refused, not cut.
    write(8'h28, 32'd4096);
    check(response == 2'b10, "a gate beyond its bits");
    write(8'h34, 32'd65537);
    check(response == 2'b10, "a size beyond its bits");
    write(8'h40, 32'h80000000);
    check(response == 2'b10, "a price beyond its bits");
    wstrb = 4'h3;
    write(8'h34, 32'd7);
    check(response == 2'b10, "half a register");
    wstrb = 4'hF;
    // Address and data apart, and an answer that waits.
    bready = 1'b0;
    awaddr = 8'h38;
    awvalid = 1'b1;
    idle(5);
    check(!awready && !bvalid, "no data, no write");
    wdata = 32'h1;
    wvalid = 1'b1;
    while (!awready) @(negedge clk);
    @(negedge clk);
    awvalid = 1'b0;
    wvalid = 1'b0;
    idle(5);
    check(bvalid && bresp == 2'b00, "the answer must wait");
    bready = 1'b1;
    idle(2);
    check(!bvalid, "one answer a write");
    // Settings that make no sense are refused as a whole.
    part = 12;
    write(8'h20, 32'd0);
    write(8'h34, 32'd7);
    control(32'h01);
    idle(2);
    read(8'h14);
    check(answer[5], "a smallest depth of 0 must be refused");
    read(8'h34);
    check(answer == 32'h1, "nothing may change when settings are refused");
    // Order size and collar.
    part = 13;
    write(8'h20, 32'h400);
    write(8'h38, 32'd6);
    control(32'h01);
    idle(Latency + 10);
    q_ready = 1'b0;
    book(directed[0][255:192]);
    message("oversize");
    check(q_flags[1:0] == 2'b00 && q_flags[5], "an order size above its limit must not be quoted");
    q_ready = 1'b1;
    write(8'h34, 32'h1);
    write(8'h40, 32'd1000000);
    write(8'h44, 32'd2000000);
    control(32'h01);
    idle(Latency + 10);
    q_ready = 1'b0;
    book({32'd102, 32'd100});
    message("collar");
    check(q_flags[1:0] == 2'b00 && q_flags[3], "a price outside the collar must not be quoted");
    q_ready = 1'b1;
    idle(10);

    // Reset takes everything back.
    part = 14;
    rst = 1'b1;
    idle(3);
    rst = 1'b0;
    watch = 1;
    book(directed[0][255:192]);
    state(8'd0, directed[0][191:32]);
    idle(Latency + 10);
    read(8'h10);
    check(!answer[0] && !answer[6], "reset must disarm");
    $display("%s: kernel, %0d checks, %0d failures", failures == 0 ? "PASS" : "FAIL", n_checks, failures);
    if (failures != 0) $fatal(1, "kernel");
    $finish;
  end
endmodule
