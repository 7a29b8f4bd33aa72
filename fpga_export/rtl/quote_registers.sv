// AXI-Lite registers. Settings are written to a shadow and take effect together with CONTROL.apply, if they make sense.
`default_nettype none
module quote_registers #(
    parameter logic [31:0] FORMAT_ID = 32'h12187EBE
) (
    input wire logic clk,
    input wire logic rst,

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
    output logic      [ 1:0] rresp,

    input  wire logic [31:0] status,
    input  wire logic [31:0] load_count,
    input  wire logic [ 7:0] version,
    // Pulses that set the sticky bits {collared, flip error, load error, crossed, saturated}.
    input  wire logic [ 4:0] events,
    input  wire logic        busy,
    output logic             kill,
    output logic             arm,
    output logic             load_start,
    output logic             load_data_valid,
    output logic      [31:0] load_data,
    output logic             load_commit,
    output logic             flip,
    output logic      [31:0] load_crc,
    output logic      [31:0] load_format,
    output logic      [ 7:0] load_version,
    // One cycle after new settings are in force.
    output logic             changed,
    output logic signed [17:0] depth_min,
    output logic signed [17:0] depth_max,
    output logic        [11:0] vpin_gate,
    output logic        [11:0] vpin_widen,
    output logic        [12:0] vpin_stop,
    output logic        [15:0] order_size,
    output logic        [15:0] max_order_size,
    output logic        [3:0] inventory_limit,
    output logic signed [30:0] price_low,
    output logic signed [30:0] price_high,
    output logic        [0:0] saturated_stops,
    output logic        [31:0] max_age
);
  logic signed [17:0] next_depth_min;
  logic signed [17:0] next_depth_max;
  logic  [11:0] next_vpin_gate;
  logic  [11:0] next_vpin_widen;
  logic  [12:0] next_vpin_stop;
  logic  [15:0] next_order_size;
  logic  [15:0] next_max_order_size;
  logic  [3:0] next_inventory_limit;
  logic signed [30:0] next_price_low;
  logic signed [30:0] next_price_high;
  logic  [0:0] next_saturated_stops;
  logic  [31:0] next_max_age;
  logic [5:0] sticky;
  logic accepts, apply_error;
  // Ready answers one cycle late: no path from an input of the bus to an output.
  always_ff @(posedge clk) begin
    accepts <= awvalid && wvalid && !bvalid && !busy && !accepts && !rst;
    arready <= arvalid && !rvalid && !arready && !rst;
  end
  assign awready = accepts;
  assign wready = accepts;

  logic sensible;
  assign sensible = next_depth_min >= 1 && next_depth_min <= next_depth_max && next_inventory_limit <= 4'd3
      && next_price_low >= 0 && next_price_low <= next_price_high;

  always_ff @(posedge clk) begin
    {kill, arm, load_start, load_data_valid, load_commit, flip, changed, apply_error} <= '0;
    if (bvalid && bready) bvalid <= 1'b0;
    if (rst) begin
      bvalid <= 1'b0;
      load_crc <= '0;
      load_format <= '0;
      load_version <= '0;
      next_depth_min <= 18'h400;
      depth_min <= 18'h400;
      next_depth_max <= 18'ha000;
      depth_max <= 18'ha000;
      next_vpin_gate <= 12'hfff;
      vpin_gate <= 12'hfff;
      next_vpin_widen <= 12'h0;
      vpin_widen <= 12'h0;
      next_vpin_stop <= 13'hb34;
      vpin_stop <= 13'hb34;
      next_order_size <= 16'h1;
      order_size <= 16'h1;
      next_max_order_size <= 16'h1;
      max_order_size <= 16'h1;
      next_inventory_limit <= 4'h3;
      inventory_limit <= 4'h3;
      next_price_low <= 31'h1;
      price_low <= 31'h1;
      next_price_high <= 31'h3fffffff;
      price_high <= 31'h3fffffff;
      next_saturated_stops <= 1'h0;
      saturated_stops <= 1'h0;
      next_max_age <= 32'h9896800;
      max_age <= 32'h9896800;
    end else if (accepts) begin
      bvalid <= 1'b1;
      bresp <= 2'b00;
      if (wstrb != 4'hF) bresp <= 2'b10;
      else
        case (awaddr)
          8'h0C: begin
            if (wdata[0]) begin
              if (sensible) begin
                changed <= 1'b1;
                depth_min <= next_depth_min;
                depth_max <= next_depth_max;
                vpin_gate <= next_vpin_gate;
                vpin_widen <= next_vpin_widen;
                vpin_stop <= next_vpin_stop;
                order_size <= next_order_size;
                max_order_size <= next_max_order_size;
                inventory_limit <= next_inventory_limit;
                price_low <= next_price_low;
                price_high <= next_price_high;
                saturated_stops <= next_saturated_stops;
                max_age <= next_max_age;
              end else begin
                apply_error <= 1'b1;
              end
            end
            arm <= wdata[1];
            kill <= wdata[2];
            load_start <= wdata[3];
            load_commit <= wdata[4];
            flip <= wdata[5];
          end
          8'h50: begin
            load_data <= wdata;
            load_data_valid <= 1'b1;
          end
          8'h54: load_crc <= wdata;
          8'h5C: load_format <= wdata;
          8'h58: load_version <= wdata[7:0];
          8'h14: ;
          8'h20: if (wdata[31:17] == '0 || wdata[31:17] == '1) next_depth_min <= wdata[17:0];
          else bresp <= 2'b10;
          8'h24: if (wdata[31:17] == '0 || wdata[31:17] == '1) next_depth_max <= wdata[17:0];
          else bresp <= 2'b10;
          8'h28: if (wdata[31:12] == '0) next_vpin_gate <= wdata[11:0];
          else bresp <= 2'b10;
          8'h2C: if (wdata[31:12] == '0) next_vpin_widen <= wdata[11:0];
          else bresp <= 2'b10;
          8'h30: if (wdata[31:13] == '0) next_vpin_stop <= wdata[12:0];
          else bresp <= 2'b10;
          8'h34: if (wdata[31:16] == '0) next_order_size <= wdata[15:0];
          else bresp <= 2'b10;
          8'h38: if (wdata[31:16] == '0) next_max_order_size <= wdata[15:0];
          else bresp <= 2'b10;
          8'h3C: if (wdata[31:4] == '0) next_inventory_limit <= wdata[3:0];
          else bresp <= 2'b10;
          8'h40: if (wdata[31:30] == '0 || wdata[31:30] == '1) next_price_low <= wdata[30:0];
          else bresp <= 2'b10;
          8'h44: if (wdata[31:30] == '0 || wdata[31:30] == '1) next_price_high <= wdata[30:0];
          else bresp <= 2'b10;
          8'h48: if (wdata[31:1] == '0) next_saturated_stops <= wdata[0:0];
          else bresp <= 2'b10;
          8'h4C: next_max_age <= wdata;
          default: bresp <= 2'b10;
        endcase
    end
  end

  // Sticky bits stay until a one is written to them.
  always_ff @(posedge clk) begin
    if (rst) sticky <= '0;
    else
      sticky <= (sticky & ~(accepts && awaddr == 8'h14 && wstrb == 4'hF ? wdata[5:0] : 6'd0)) | {apply_error, events};
  end

  always_ff @(posedge clk) begin
    if (rst) rvalid <= 1'b0;
    else if (arready) rvalid <= 1'b1;
    else if (rready) rvalid <= 1'b0;
    if (arready) begin
      rresp <= 2'b00;
      case (araddr)
        8'h00: rdata <= 32'h4D464D4B;
        8'h04: rdata <= FORMAT_ID;
        8'h08: rdata <= 32'd1;
        8'h10: rdata <= status;
        8'h14: rdata <= {26'd0, sticky};
        8'h18: rdata <= {24'd0, version};
        8'h60: rdata <= load_count;
        8'h20: rdata <= 32'(depth_min);
        8'h24: rdata <= 32'(depth_max);
        8'h28: rdata <= 32'(vpin_gate);
        8'h2C: rdata <= 32'(vpin_widen);
        8'h30: rdata <= 32'(vpin_stop);
        8'h34: rdata <= 32'(order_size);
        8'h38: rdata <= 32'(max_order_size);
        8'h3C: rdata <= 32'(inventory_limit);
        8'h40: rdata <= 32'(price_low);
        8'h44: rdata <= 32'(price_high);
        8'h48: rdata <= 32'(saturated_stops);
        8'h4C: rdata <= max_age;
        default: begin
          rdata <= '0;
          rresp <= 2'b10;
        end
      endcase
    end
  end
endmodule
`default_nettype wire
