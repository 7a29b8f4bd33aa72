// Table memory of one parity class of nodes: one write port for the loader, one read port, three cycles to the data.
`default_nettype none
module quote_bank #(
    parameter int    AW    = 8,
    parameter int    DW    = 32,
    parameter        INIT  = ""
) (
    input  wire logic          clk,
    input  wire logic          write,
    input  wire logic [AW-1:0] write_address,
    input  wire logic [DW-1:0] write_data,
    input  wire logic [AW-1:0] address,
    output logic      [DW-1:0] data
);
  // A power of two of words: tools then need no multiplexer behind the blocks. No word is read in the cycle in which it is written:
  // the loader fills the page that is not in use.
  (* ram_style = "block", no_rw_check *)
  logic [DW-1:0] memory[2**AW];
  // The first register is the block's own, the second stands beside it, the third where the data are needed.
  logic [DW-1:0] fetched, beside;
  if (INIT != "") begin : g_init
    initial $readmemh(INIT, memory);
  end
  always_ff @(posedge clk) begin
    if (write) memory[write_address] <= write_data;
    fetched <= memory[address];
    beside <= fetched;
    data <= beside;
  end
endmodule
`default_nettype wire
