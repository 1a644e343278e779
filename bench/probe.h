/* The machine's live limits, measured beside every figure: on a shared machine
 * only the ratio to them means something.                                    */
#ifndef AT_PROBE_H
#define AT_PROBE_H

/* Fused multiply-adds on registers, float32, all threads: GFLOP/s.           */
double probe_fma_gflops(int n_threads);
/* In-place read+write of memory far larger than the caches: GB/s.            */
double probe_dram_gbs(int n_threads);

/* Seconds by the clock; of one thread: of its work alone, so that other work on
 * the machine is not counted.                                                */
double probe_now_s(int n_threads);

#endif
