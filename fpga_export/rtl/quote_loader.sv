// Two pages of the table: the host fills the one that is not in use, word by word, and flips when its checksum is right.
`default_nettype none
module quote_loader #(
    parameter logic [31:0] FORMAT_ID = 32'h12187EBE
) (
    input wire logic clk,
    input wire logic rst,

    input wire logic        start,
    input wire logic        data_valid,
    input wire logic [31:0] data,
    input wire logic        commit,
    input wire logic        flip,
    input wire logic [31:0] expected_crc,
    input wire logic [31:0] expected_format,
    input wire logic [ 7:0] version,

    output logic        write,
    output logic        write_page,
    output logic [1:0] write_bank,
    output logic [11:0] write_address,
    output logic [63:0] write_data,

    output logic        active,
    output logic [ 1:0] page_valid,
    output logic [15:0] versions,
    output logic [31:0] count,
    output logic        load_error,
    output logic        flip_error,
    // One cycle after a flip, when the new page is in force.
    output logic        flipped,
    // Reads of the page just left may still be on their way: no writes yet.
    output logic        busy
);
  localparam logic [31:0] Words = 14336;
  localparam logic [31:0] Polynomial = 32'hEDB88320;  // CRC-32 of IEEE 802.3, as zlib.crc32 has it

  function automatic logic [31:0] crc_of(input logic [31:0] crc, input logic [31:0] word);
    logic [31:0] c;
    c = crc;
    for (int i = 0; i < 32; i++) c = (c[0] ^ word[i]) ? (c >> 1) ^ Polynomial : c >> 1;
    crc_of = c;
  endfunction

  logic [31:0] crc, data_later;
  logic crc_due, commit_later;
  logic loading, overrun;
  logic [4:0] drain;
  logic [1:0] bank;
  logic [11:0] address;
  logic is_high;
  logic [31:0] low_word;
  assign write_page = !active;
  assign busy = drain != 0;

  always_ff @(posedge clk) begin
    write <= 1'b0;
    load_error <= 1'b0;
    flip_error <= 1'b0;
    flipped <= 1'b0;
    crc_due <= 1'b0;
    commit_later <= commit;
    if (drain != 0) drain <= drain - 5'd1;
    if (crc_due) crc <= crc_of(crc, data_later);
    if (rst) begin
      active <= 1'b0;
      page_valid <= 2'b00;
      versions <= '0;
      count <= '0;
      loading <= 1'b0;
      overrun <= 1'b0;
      drain <= '0;
      commit_later <= 1'b0;
    end else if (start) begin
      loading <= 1'b1;
      overrun <= 1'b0;
      page_valid[!active] <= 1'b0;
      crc <= 32'hFFFFFFFF;
      count <= '0;
      bank <= '0;
      address <= '0;
      is_high <= 1'b0;
    end else if (data_valid) begin
      if (!loading || count >= Words) begin
        overrun <= 1'b1;
        load_error <= 1'b1;
      end else begin
        count <= count + 32'd1;
        data_later <= data;
        crc_due <= 1'b1;
        is_high <= !is_high;
        low_word <= data;
        write <= is_high;
        write_data <= {data, low_word};
        write_bank <= bank;
        write_address <= address;
        if (is_high) begin
          if (address == 12'd1791) begin
            address <= '0;
            bank <= bank + 2'd1;
          end else begin
            address <= address + 12'd1;
          end
        end
      end
    end else if (commit_later) begin
      loading <= 1'b0;
      if (loading && !overrun && count == Words && ~crc == expected_crc && expected_format == FORMAT_ID) begin
        page_valid[!active] <= 1'b1;
        if (active) versions[7:0] <= version;
        else versions[15:8] <= version;
      end else begin
        load_error <= 1'b1;
      end
    end else if (flip) begin
      if (page_valid[!active]) begin
        active <= !active;
        flipped <= 1'b1;
        drain <= 5'd16;
      end else begin
        flip_error <= 1'b1;
      end
    end
  end
endmodule
`default_nettype wire
