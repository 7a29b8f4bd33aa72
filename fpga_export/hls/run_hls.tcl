# vitis_hls -f hls/run_hls.tcl, from the project's folder: C simulation, synthesis and co-simulation on the golden vectors.
file mkdir build
open_project -reset build/hls
set_top quote_kernel
add_files hls/quote_kernel.cpp -cflags "-DQUOTE_AP_INT -std=c++14"
add_files -tb hls/quote_tb.cpp -cflags "-DQUOTE_AP_INT -std=c++14"
add_files -tb vectors
open_solution -reset solution
# set_part ... : the manifest's part is "generic".
create_clock -period 6.25 -name default
csim_design
csynth_design
cosim_design -rtl verilog -argv directed
export_design -format ip_catalog
exit
