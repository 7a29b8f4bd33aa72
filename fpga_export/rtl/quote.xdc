# 160.0 MHz. All ports but `kill` belong to this clock; `kill` has its own synchroniser.
create_clock -period 6.25 -name clk [get_ports clk]
set_false_path -from [get_ports kill]
