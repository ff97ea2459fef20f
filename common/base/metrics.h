/* metrics.h - one row per counter, gauge or histogram; Prometheus text and JSON come from the rows.
 *
 * A metric has one series, or one per value of its label; psd_ metrics of a shard carry its number as well.
 * One thread owns the object and updates it; others read the text that it renders. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* X(NAME, type, name, is it per shard, label or "", help) */
#define PSD_METRICS(X)                                                                                                             \
    X(BUILD_INFO, GAUGE, "psd_build_info", 0, "version", "Always 1; the labels give the version.")                                 \
    X(UP_SINCE, GAUGE, "psd_up_since_timestamp_seconds", 0, "", "When the process began to serve.")                                \
    X(STEPS, COUNTER, "psd_steps_total", 1, "", "Optimizer steps committed.")                                                      \
    X(SHARD_VERSION, GAUGE, "psd_shard_version", 1, "", "Version of the shard's weights.")                                         \
    X(ROUNDS, COUNTER, "psd_rounds_total", 0, "mode", "Rounds closed.")                                                            \
    X(SAMPLES, COUNTER, "psd_samples_total", 0, "", "Samples behind the committed steps.")                                         \
    X(FOLDED, COUNTER, "psd_pushes_folded_total", 1, "", "Gradients added up before their round was decided.")                     \
    X(ASKED_AGAIN, COUNTER, "psd_pushes_asked_again_total", 1, "",                                                                 \
      "Of these, requested again because the round was decided otherwise than expected.")                                          \
    X(AHEAD, COUNTER, "psd_parts_ahead_total", 1, "", "Parts stepped before their round was decided (net.overlap).")               \
    X(AHEAD_IN_VAIN, COUNTER, "psd_parts_ahead_in_vain_total", 1, "",                                                              \
      "Of these, in vain, because the round was decided otherwise than expected.")                                                 \
    X(PUSHES, COUNTER, "psd_pushes_total", 1, "", "Parts of gradients accepted.")                                                  \
    X(MESSAGES_REJECTED, COUNTER, "psd_messages_rejected_total", 1, "reason", "Messages refused.")                                 \
    X(CONNECTIONS_REFUSED, COUNTER, "psd_connections_refused_total", 1, "",                                                        \
      "Connections with a key that is not on the allow-list.")                                                                     \
    X(MEMORY_LINKS, GAUGE, "psd_memory_links", 1, "", "Workers whose gradients and weights travel through memory.")                \
    X(PULLS, COUNTER, "psd_pulls_total", 1, "which", "Parts of weights sent.")                                                     \
    X(RECEIVED_BYTES, COUNTER, "psd_received_bytes_total", 1, "", "Bytes of messages received.")                                   \
    X(SENT_BYTES, COUNTER, "psd_sent_bytes_total", 1, "", "Bytes of messages sent.")                                               \
    X(STALENESS, STEPS_HISTOGRAM, "psd_staleness_steps", 0, "", "Steps between a gradient's weights and its use.")                 \
    X(APPLY_DURATION, SECONDS_HISTOGRAM, "psd_apply_duration_seconds", 0, "", "Time to step the shard.")                           \
    X(PUSH_LATENCY, SECONDS_HISTOGRAM, "psd_push_latency_seconds", 0, "", "From a complete push to its answer.")                   \
    X(ROUND_DURATION, SECONDS_HISTOGRAM, "psd_round_duration_seconds", 0, "", "From commit to commit.")                            \
    X(BARRIER_WAIT, SECONDS_HISTOGRAM, "psd_barrier_wait_seconds", 0, "", "From a round's first gradient to its last.")            \
    X(QUEUE_LENGTH, GAUGE, "psd_queue_length", 1, "", "Complete pushes that wait for their step.")                                 \
    X(ROUNDS_SKIPPED, COUNTER, "psd_rounds_skipped_total", 0, "", "Rounds closed without a step.")                                 \
    X(ROUNDS_GATHERED, GAUGE, "psd_rounds_gathered", 0, "", "Rounds gathered so far towards the next step (sync.accumulate).")     \
    X(JOB_STATE, GAUGE, "psd_job_state", 0, "state", "1 for the present state of the job.")                                        \
    X(WORKERS, GAUGE, "psd_workers", 0, "state", "Workers by state.")                                                              \
    X(WORKERS_LOST, COUNTER, "psd_workers_lost_total", 0, "", "Number of times that a worker was given up.")                       \
    X(WORKERS_QUARANTINED, COUNTER, "psd_workers_quarantined_total", 0, "", "Of these, because of Inf or NaN in its gradients.")   \
    X(WORKERS_MISSING, GAUGE, "psd_workers_missing", 0, "",                                                                        \
      "Workers that are missing, of workers.want, or of workers.min if lost workers are dropped.")                                 \
    X(SERVERS_LOST, GAUGE, "psd_servers_lost", 0, "",                                                                              \
      "Servers silent for longer than the lease: at server 0 any, elsewhere server 0.")                                            \
    X(WORKER_LAST_PUSH, GAUGE, "psd_worker_last_push_timestamp_seconds", 0, "worker", "When a worker pushed last.")                \
    X(WORKER_LAG, GAUGE, "psd_worker_lag_steps", 0, "worker",                                                                      \
      "Number of clocks by which a worker is behind the most advanced one.")                                                       \
    X(WORKER_AWAITED, GAUGE, "psd_worker_awaited_ratio", 0, "worker",                                                              \
      "Share of the last seconds in which only this worker's push was missing for the round.")                                     \
    X(WORKER_SAMPLES, COUNTER, "psd_worker_samples_total", 0, "worker", "Samples behind a worker's pushes.")                       \
    X(MEMBERSHIP_EPOCH, GAUGE, "psd_membership_epoch", 0, "", "Number of the current list of members; rises with each change.")    \
    X(TRAINING_LOSS, GAUGE, "psd_training_loss", 0, "", "Mean loss of the last step.")                                             \
    X(VALIDATION, GAUGE, "psd_validation_metric", 0, "name", "Last value that a worker reported.")                                 \
    X(EPOCH, GAUGE, "psd_epoch", 0, "", "Passes over the data so far, if the workers report the number of rows.")                  \
    X(TIME_LEFT, GAUGE, "psd_time_left_seconds", 0, "", "Time to the last step at the trainer's pace so far.")                     \
    X(LEARNING_RATE, GAUGE, "psd_learning_rate", 0, "", "Learning rate of the last step.")                                         \
    X(GRADIENT_NORM, GAUGE, "psd_gradient_norm", 0, "", "Norm of the last gradient.")                                              \
    X(CLIP_SCALE, GAUGE, "psd_clip_scale", 0, "", "Factor by which clip.norm shortened the last gradient; 1: it did not.")         \
    X(TENSORS, GAUGE, "psd_tensors", 0, "state", "Tensors by their health in the newest look.")                                    \
    X(TENSOR_GRADIENT, GAUGE, "psd_tensor_gradient_norm", 0, "tensor", "Norm of a tensor's gradient, for the 32 largest tensors.") \
    X(TENSOR_WEIGHT, GAUGE, "psd_tensor_weight_norm", 0, "tensor", "Norm of its weights.")                                         \
    X(TENSOR_UPDATE, GAUGE, "psd_tensor_update_ratio", 0, "tensor", "Norm of what a step adds to its weights, over theirs.")       \
    X(TENSOR_ZEROS, GAUGE, "psd_tensor_zero_gradients_ratio", 0, "tensor", "Share of its gradients that are 0.")                   \
    X(TENSOR_REACHED, GAUGE, "psd_tensor_cut_gradients_ratio", 0, "tensor",                                                        \
      "Share of its gradients cut by clip.value, or, without it, too large to be squared.")                                        \
    X(RESIDUAL_RESETS, COUNTER, "psd_residual_resets_total", 0, "",                                                                \
      "Workers that joined a running job, and so started with an empty residual of codec.push.")                                   \
    X(LOOKAHEAD_SYNCS, COUNTER, "psd_lookahead_syncs_total", 0, "", "Lookahead syncs done.")                                       \
    X(CHECKPOINT_TIME, GAUGE, "psd_checkpoint_last_success_timestamp_seconds", 0, "", "When the last checkpoint was completed.")   \
    X(CHECKPOINT_DURATION, GAUGE, "psd_checkpoint_duration_seconds", 0, "", "How long the last checkpoint took.")                  \
    X(CHECKPOINT_BYTES, GAUGE, "psd_checkpoint_bytes", 1, "", "Size of this shard's file in it.")                                  \
    X(HTTP_REQUESTS, COUNTER, "psd_http_requests_total", 0, "path", "Requests to the status endpoint.")                            \
    X(LOG_MESSAGES, COUNTER, "psd_log_messages_total", 0, "level", "Log events, written or suppressed.")                           \
    X(CPU_SECONDS, COUNTER, "process_cpu_seconds_total", 0, "", "Processor time used.")                                            \
    X(OPEN_FDS, GAUGE, "process_open_fds", 0, "", "Open file descriptors.")                                                        \
    X(MAX_FDS, GAUGE, "process_max_fds", 0, "", "Most file descriptors allowed.")                                                  \
    X(VIRTUAL_MEMORY, GAUGE, "process_virtual_memory_bytes", 0, "", "Virtual memory.")                                             \
    X(RESIDENT_MEMORY, GAUGE, "process_resident_memory_bytes", 0, "", "Resident memory.")                                          \
    X(START_TIME, GAUGE, "process_start_time_seconds", 0, "", "When the process started.")                                         \
    X(THREADS, GAUGE, "process_threads", 0, "", "Threads.")

typedef enum psd_metric {
#define X(NAME, type, name, per_shard, label, help) PSD_METRIC_##NAME,
    PSD_METRICS(X)
#undef X
        PSD_N_METRICS
} psd_metric_t;

enum { PSD_METRIC_BUCKETS = 13 };      /* of steps: <= 0, 1, 2, 4, ... 1024, more */
enum { PSD_METRIC_MAX_SERIES = 1100 }; /* of one metric; further series are dropped */

typedef struct psd_metrics psd_metrics_t;

/* Metrics of the process that serves shard `shard`. Counters without a label start at 0; everything else
 * appears when it is first set. NULL when memory runs out. */
psd_metrics_t *psd_metrics_new(uint32_t shard);
void psd_metrics_destroy(psd_metrics_t **self_p);

/* `label` is the value of the metric's label, NULL for a metric without one. A series that finds no memory is
 * dropped: metrics never stop the program. `set` is for counters and gauges, `observe` for histograms. */
void psd_metrics_set(psd_metrics_t *self, psd_metric_t metric, const char *label, double x);
void psd_metrics_observe(psd_metrics_t *self, psd_metric_t metric, const char *label, double x);
void psd_metrics_remove(psd_metrics_t *self, psd_metric_t metric, const char *label);

/* A histogram that the caller counts: values in each of its buckets, the last of which has no bound, and
 * their sum. `n` is PSD_METRIC_BUCKETS. */
void psd_metrics_set_buckets(psd_metrics_t *self, psd_metric_t metric, const char *label, const uint64_t *counts, size_t n,
                             double sum);

/* Set the operating system's figures of this process (process_*), and psd_log_messages_total. */
void psd_metrics_collect(psd_metrics_t *self);

/* All of it as Prometheus text 0.0.4. The caller frees it; NULL when memory runs out. */
char *psd_metrics_prometheus(const psd_metrics_t *self);
