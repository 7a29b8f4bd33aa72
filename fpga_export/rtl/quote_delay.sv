// A value N cycles later. No reset: what arrives without its valid bit is not looked at.
`default_nettype none
module quote_delay #(
    parameter int W = 1,
    parameter int N = 1
) (
    input  wire logic         clk,
    input  wire logic [W-1:0] d,
    output logic      [W-1:0] q
);
  if (N == 0) begin : g_wire
    logic unused_clk;
    assign unused_clk = clk;
    assign q = d;
  end else begin : g_line
    logic [N*W-1:0] line;
    if (N == 1) begin : g_one
      always_ff @(posedge clk) line <= d;
    end else begin : g_many
      always_ff @(posedge clk) line <= {line[(N-1)*W-1:0], d};
    end
    assign q = line[N*W-1-:W];
  end
endmodule
`default_nettype wire
