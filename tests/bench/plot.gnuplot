# SPDX-License-Identifier: GPL-2.0-only
#
# Plots each function's cost against the number of pending requests, from a table with column names
# in its first line. Arguments: the table and the picture.

set terminal svg size 900,520 font "sans-serif,14" background "white" name "scoutfs_fence"
set output ARG2
set title "Instructions for one call"
set xlabel "pending requests"
set ylabel "instructions"
set logscale xy
set format x "%.0f"
set format y "%.0f"
set yrange [50:*]
set grid ytics linecolor rgb "#dddddd"
set key outside right top spacing 1.3
set border 3
set tics nomirror
set datafile separator "\t"
set linetype 1 linecolor rgb "#222222" linewidth 3 dashtype 2 pointtype 7
set linetype 2 linecolor rgb "#0072b2" linewidth 2 pointtype 7
set linetype 3 linecolor rgb "#d55e00" linewidth 2 pointtype 7
set linetype 4 linecolor rgb "#009e73" linewidth 2 pointtype 7
set linetype 5 linecolor rgb "#cc79a7" linewidth 2 pointtype 7
set linetype 6 linecolor rgb "#e69f00" linewidth 2 pointtype 7
set linetype 7 linecolor rgb "#56b4e9" linewidth 2 pointtype 7
set linetype 8 linecolor rgb "#882255" linewidth 2 pointtype 7

stats ARG1 skip 1 nooutput
plot for [column=2:STATS_columns] ARG1 using 1:column with linespoints pointsize 0.6 \
	title columnheader(column) noenhanced
