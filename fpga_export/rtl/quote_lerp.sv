// Linear interpolation between the values of an even and an odd node, rounded half up, in three cycles.
// `place` is the distance from the lower node in 2^-FB; `swap` says that the lower node is the odd one.
`default_nettype none
module quote_lerp #(
    parameter int W     = 16,
    parameter int FB    = 8,
    parameter int GUARD = 0
) (
    input  wire logic                      clk,
    input  wire logic signed [      W-1:0] even,
    input  wire logic signed [      W-1:0] odd,
    input  wire logic                      swap,
    input  wire logic        [     FB-1:0] place,
    output logic signed      [W+GUARD-1:0] value
);
  localparam int Shift = FB - GUARD;
  localparam logic signed [W+FB+1:0] Half = (W + FB + 2)'(1) <<< (Shift - 1);
  logic signed [W-1:0] low, low_later;
  logic signed [W:0] difference;
  logic signed [FB:0] place_later;
  logic signed [W+FB+1:0] product;
  logic signed [W+FB+1:0] rounded;
  assign rounded = (product + Half) >>> Shift;
  always_ff @(posedge clk) begin
    low <= swap ? odd : even;
    difference <= swap ? (W + 1)'(even) - (W + 1)'(odd) : (W + 1)'(odd) - (W + 1)'(even);
    place_later <= signed'({1'b0, place});
    low_later <= low;
    product <= (W + FB + 2)'(difference) * (W + FB + 2)'(place_later);
    value <= (W + GUARD)'(((W + FB + 2)'(low_later) <<< GUARD) + rounded);
  end
endmodule
`default_nettype wire
