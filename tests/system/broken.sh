#!/usr/bin/env bash
# broken.sh BIN SOURCE - what users get wrong: job files and command lines, none of which is accepted. Each is answered with
# the place, the cause and the cure, on stderr alone, and with the exit code of sysexits.h.
set -uo pipefail
bin=$1 source=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
n=0 failed=0

miss() {
    echo "broken: $*" >&2
    failed=$((failed + 1))
}

# Run a program; it must end with CODE, silent on stdout, having said all the WORDS on stderr.
refused() { # CODE 'WORDS|WORDS' PROGRAM ARG...
    local code=$1 words=$2 rc=0 word
    shift 2
    n=$((n + 1))
    local program=("$bin/$1")
    [ "$1" != env ] || program=(env)
    timeout 600 "${program[@]}" "${@:2}" >out 2>err </dev/null || rc=$?
    [ "$rc" -eq "$code" ] || miss "$* ended with $rc instead of $code: $(cat err)"
    [ ! -s out ] || miss "$* wrote to stdout: $(cat out)"
    while [ -n "$words" ]; do
        word=${words%%|*}
        [ "$word" = "$words" ] && words='' || words=${words#*|}
        grep -qF -- "$word" err || miss "$* lacks \"$word\": $(cat err)"
    done
}

# A job file with these lines, checked: the first complaint is about the place LINE:COLUMN.
file() { # CODE LINE:COLUMN 'WORDS|WORDS' TEXT
    printf '%b' "$4" >job.yaml
    refused "$1" "job.yaml:$2: |$3" psdctl config check job.yaml
    head -n 1 err | grep -q "^job.yaml:$2: " || miss "the first complaint about $4 is $(head -n 1 err)"
}

# -- job files: form
file 78 2:1 'a tab|use spaces' 'data:\n\tbatch: 64\n'
file 78 1:1 'a job file is a list of "key: value" lines' 'glyphs\n'
file 78 1:1 'a job file is a list of "key: value" lines' '- servers: 2\n'
file 78 2:1 'duplicate key servers|keep one' 'servers: 2\nservers: 3\n'
file 78 3:1 'duplicate key data' 'data: {batch: 1}\nseed: 1\ndata: {shuffle: true}\n'
file 78 1:7 '&x is an anchor' 'seed: &x 1\n'
file 78 2:1 'a second document' 'seed: 1\n---\nseed: 2\n'
file 78 1:7 'tag' 'seed: !!int 1\n'
file 78 1:1 '<< merges keys|write each key out' '<<: {seed: 1}\n'
file 78 1:9 'servers has no value|leave the key out' 'servers:\n'
file 78 3:2 'this is not YAML|indent' 'data:\n  batch: 1\n shuffle: true\n'
file 78 2:1 'this is not YAML: close the bracket' 'data: {batch: 64\n'
# -- job files: keys
file 78 1:1 'unknown key lerning_rate|--help lists them all' 'lerning_rate: 0.1\n'
file 78 1:1 'unknown key batch|did you mean data.batch?' 'batch: 64\n'
file 78 1:8 'unknown key data.bacth|did you mean data.batch?' 'data: {bacth: 64}\n'
file 78 1:1 'unknown key Servers|did you mean servers?' 'Servers: 2\n'
file 78 1:1 'unknown key worker-id' 'worker-id: 2\n'
file 78 1:10 'data is a section|write its keys below it' '   data: 64\n'
file 78 1:10 'workers is a section|write its keys below it' 'workers: 4\n'
file 78 1:10 'servers takes a value, not a section' 'servers: {n: 2}\n'
file 78 1:12 'optimizer takes a value, not a section' 'optimizer: {name: adam, lr: 0.1}\n'
# -- job files: numbers, and what other readers make of them
file 78 1:16 'stop.target is text in quotes|write the number without' "stop: {target: '0.1'}\n"
file 78 2:11 'stop.target is "0,1"|decimal, such as 0.5' 'stop:\n  target: 0,1\n'
file 78 1:16 'stop.target is "1e-3x"|decimal, such as' 'stop: {target: 1e-3x}\n'
file 78 1:16 'stop.target is "nan"|decimal' 'stop: {target: nan}\n'
file 78 1:16 'stop.target is "inf"|decimal' 'stop: {target: inf}\n'
file 78 1:7 'seed is "1_000"|decimal digits' 'seed: 1_000\n'
file 78 1:10 'servers is "4x"|decimal digits' 'servers: 4x\n'
file 78 1:10 'servers is "4.0"|decimal digits' 'servers: 4.0\n'
file 78 1:10 'servers is "010"|without a leading 0' 'servers: 010\n'
file 78 1:10 'servers is "two"|not a valid whole number|decimal digits' 'servers: two\n'
file 78 1:10 'servers is text in quotes|write the whole number without' 'servers: "2"\n'
file 78 1:10 'servers takes one value, not a list' 'servers: [2]\n'
file 78 1:10 'servers is 257; it takes 1 to 256' 'servers: 257\n'
file 78 1:10 'servers is -1; it takes 1 to 256' 'servers: -1\n'
file 78 1:15 'data.batch is "all"; it takes full or 1 to 1073741824' 'data: {batch: all}\n'
file 78 1:18 'stop.epochs is -1; it takes 0 or more' '  stop: {epochs: -1}\n'
file 78 1:7 'seed is "1e6"|decimal digits' 'seed: 1e6\n'
# -- job files: durations, words, addresses, lists
file 78 1:8 'lease is "30", not a valid duration|a number and a unit, such as 500ms, 30s, 2m' 'lease: 30\n'
file 78 1:8 'lease is "30sec", not a valid duration|500ms' 'lease: 30sec\n'
file 78 1:8 'lease is "1 m", not a valid duration|500ms' 'lease: 1 m\n'
file 78 1:8 'lease is 1ms; it takes 100ms or more' 'lease: 1ms\n'
file 78 1:14 'sync.mode is "sync"; it takes bsp or asp' 'sync: {mode: sync}\n'
file 78 1:14 'sync.mode is "bps"|did you mean bsp?' 'sync: {mode: bps}\n'
file 78 1:17 'data.shuffle is "yes"|write true or false' 'data: {shuffle: yes}\n'
file 78 1:15 'model.kind is "mpl"|linear or logistic or softmax or mlp|did you mean mlp?' 'model: {kind: mpl}\n'
file 78 1:9 'not a valid endpoint|tcp://HOST:PORT' 'listen: 127.0.0.1:7470\n'
file 78 1:18 'not a valid address|HOST:PORT' 'status: {listen: 7471}\n'
file 78 1:18 'not a valid address|port up to 65535' "status: {listen: '127.0.0.1:70000'}\n"
file 78 1:6 'job is "my job", not a valid name|at most 63 letters' 'job: my job\n'
file 78 1:17 'model.layers takes a list; write [784, 128, 10]' 'model: {layers: 784}\n'
file 78 1:17 'model.layers is 784,0; it takes 1 to 1048576' 'model: {layers: [784, 0]}\n'
# -- job files: optimizers
file 78 1:12 "unknown optimizer 'adma'|the nearest is 'adam'" 'optimizer: adma\n'
file 78 1:12 "column 6|unknown|the nearest is 'lr'" 'optimizer: adam(lrr=0.1)\n'
file 78 1:12 'column 9|finite decimal number' 'optimizer: adam(lr=x)\n'
file 78 1:12 'column 9|lr=-1 of adam is out of range|at least 0' 'optimizer: adam(lr=-1)\n'
file 78 1:12 'column 12|beta1=1.2 of adam is out of range|below 1' 'optimizer: adam(beta1=1.2)\n'
file 78 1:12 "expected ',' or ')'" 'optimizer: adam(lr=0.1\n'
file 78 1:12 'column 6|found' 'optimizer: adam 0.1\n'
file 78 1:12 'column 19|k=0 of lookahead is out of range|at least 1' 'optimizer: "lookahead(adam, k=0)"\n'
file 78 1:12 'nesterov=1 needs momentum' 'optimizer: sgd(lr=0.1, nesterov=1)\n'
# -- job files: what contradicts itself, and what is not there
file 78 1:25 'workers.want is 2, less than workers.min, 4|leave it out' 'workers: {min: 4, want: 2}\n'
file 78 1:21 'data.test_labels is set, but data.test is not|set both, or neither' 'data: {test_labels: x.gz}\n'
file 78 2:18 'status.listen and listen both have port 7470|0 for any free one' 'listen: tcp://127.0.0.1:7470\nstatus: {listen: 127.0.0.1:7470}\n'
file 78 2:17 'server.index is 2 of 2 servers|0 to 1' 'servers: 2\nserver: {index: 2}\n'
file 66 1:15 'no/such.csv: No such file' 'data: {train: "csv:no/such.csv"}\n'
file 78 1:15 'names no file; write csv:FILE' 'data: {train: "csv:"}\n'
file 78 1:15 'write FORMAT:FILE with a format of' 'data: {train: parquet:x}\n'
file 78 1:15 'write FORMAT:FILE with a format of' 'data: {train: x.csv}\n'
file 78 1:15 'needs the file of its labels too; set data.labels' 'data: {train: idx:x.gz}\n'
file 78 1:15 'keeps its labels itself; leave data.labels out' 'data: {train: glyphs:100, labels: x}\n'
file 78 1:32 'model.layers starts with 100, but the training set has 784 features' 'model: {kind: softmax, layers: [100, 10]}\ndata: {train: glyphs:100}\n'
file 78 1:32 'model.layers ends with 9, but the training set asks for 10 outputs' 'model: {kind: softmax, layers: [784, 9]}\ndata: {train: glyphs:100}\n'
file 78 1:15 'is for 2 classes' 'model: {kind: logistic}\ndata: {train: glyphs:100}\n'
file 78 2:16 'stop.target is set, but there is no test set|set data.test' "data: {train: 'csv:$source/deploy/examples/linear.csv'}\nstop: {target: 0.5}\nmodel: {kind: linear}\n"
printf 'a,w,y\n1,0,0\n2,0,1\n' >zero.csv
file 65 1:46 'the weights of all 2 training rows are 0' "data: {train: 'csv:zero.csv', weight_column: w}\n"
printf 'a,w,y\n1,1,0\n2,0,1\n' >some.csv
file 65 1:68 'the weights of all 2 test rows are 0' "data: {train: 'csv:some.csv', test: 'csv:zero.csv', weight_column: w}\n"
printf 'PK\003\004%0200d' 0 >net.npz
file 65 2:7 'net.npz is an npz archive; convert it: psdctl import JOB --from=net.npz --to=' 'data: {train: glyphs:100}\ninit: net.npz\n'
printf 'PK\003\004%026dnet/data.pkl%0200d' 0 0 >net.pt
file 65 2:7 'net.pt was written by torch.save; save the state_dict as safetensors, or as npz|psdctl import' 'data: {train: glyphs:100}\ninit: net.pt\n'
printf '\200\002%0200d' 0 >old.pt
file 65 2:7 'old.pt was written by torch.save' 'data: {train: glyphs:100}\ninit: old.pt\n'
printf 'a,b\n1,x\n' >bad.csv
file 65 1:15 'bad.csv:2' 'data: {train: csv:bad.csv}\nmodel: {kind: linear}\n'
# What only a server refuses is found by config check too.
file 78 1:12 'optimizer lamb needs sums over whole tensors|set sync.mode to bsp' 'optimizer: lamb(lr=1e-3)\nsync: {mode: asp}\n'
file 78 1:9 'optimizer muon steps whole tensors' 'groups: [{match: "*", optimizer: "muon(lr=1e-3)"}]\nsync: {mode: asp}\n'
file 78 1:31 'sync.accumulate is 4, but sync.mode asp has no rounds' 'sync: {mode: asp, accumulate: 4}\n'
file 78 2:9 'groups: conv* matches no tensor of the model, which has fc1.weight, fc1.bias' 'data: {train: glyphs:100}\ngroups: [{match: "conv*", lr: 1}]\n'
file 78 2:9 'groups: earlier groups take all tensors that fc1.bias matches: fc1.bias|put it before them' 'data: {train: glyphs:100}\ngroups: [{match: "*.bias", lr: 1}, {match: fc1.bias, lr: 2}]\n'
file 78 2:9 'every tensor of the model is frozen, so nothing would be trained' 'data: {train: glyphs:100}\ngroups: [{match: "*", freeze: true}]\n'
# A model of a program may have any tensors.
printf 'groups: [{match: "conv*", lr: 1}]\n' >job.yaml
"$bin/psdctl" config check job.yaml 2>err || miss "groups of a program's model are refused: $(cat err)"
# All mistakes of a file come in one run.
printf 'servers: 0\nlease: 3\nseeed: 1\n' >job.yaml
refused 78 'job.yaml:1:10: |job.yaml:2:8: |job.yaml:3:1: ' psdctl config check job.yaml

# -- command lines: programs
for program in psd psd-worker psdctl; do
    refused 64 "Usage: $program|help" "$program"
done
refused 64 'Usage: psdctl run|psdctl run job.yaml' psdctl run
refused 64 'unknown option --frobnicate|--help lists them all' psd --frobnicate
refused 64 'unknown option --leese|did you mean --lease?' psd --leese=3s
refused 64 'unknown option --serv|did you mean --servers?' psd --serv=2
refused 64 'unknown option --data_batch|did you mean --data-batch?' psd-worker --data_batch=2
refused 64 '--groups: groups, column 8: expected an argument' psdctl config check '--groups=*.bias('
refused 64 '--schedule: schedule, column 8: expected the name of an argument' psdctl config check '--schedule=cosine('
refused 78 "--groups: groups, column 1: group *.bias: values, column 1: unknown argument 'momentum' of adam" psdctl config check --optimizer=adam '--groups=*.bias(momentum=0)'
refused 64 'unknown option -j|--help' psd-worker -j tcp://x:1
refused 64 '--data-train is an option of psd-worker|in the job file, data.train is fine' psd --data-train=glyphs
refused 64 '--optimizer is an option of psd|in the job file' psd-worker --optimizer=sgd
refused 64 '--worker-id is an option of psd-worker' psdctl run --worker-id=2
refused 64 '--compare-seeds is an option of psdctl compare' psdctl run --compare-seeds=2
refused 64 '--lease needs a value' psd --lease
refused 64 '--lease: lease is "3", not a valid duration|500ms' psd --lease=3
refused 64 '--listen: listen is "0.0.0.0:7470", not a valid endpoint|tcp://HOST:PORT' psd --listen=0.0.0.0:7470
refused 64 "--optimizer: |unknown optimizer 'adma'" psd --optimizer=adma
refused 64 'two job files, a.yaml and b.yaml' psdctl run a.yaml b.yaml
refused 66 'cannot read job file none.yaml: No such file' psdctl run none.yaml
refused 66 'cannot read job file' psd .
refused 78 'without keys|--server-key|psdctl keygen|--insecure' psd --servers=1 --status-listen=none --listen=tcp://127.0.0.1:0
refused 78 'insecure' psd --insecure --listen=tcp://0.0.0.0:0 --status-listen=none
refused 64 'no server to join: set --join' psd-worker --insecure --data-train=glyphs:10
refused 66 'no.key' psd-worker --join=tcp://127.0.0.1:1 --worker-key=no.key --server-public=x --data-train=glyphs:100
refused 66 '--data-train: no.csv: No such file' psd-worker --insecure --join=tcp://127.0.0.1:1 --data-train=csv:no.csv
refused 78 'environment: PSD_LEESE is not an option|did you mean PSD_LEASE?' env PSD_LEESE=3s "$bin/psd" --
refused 78 'environment PSD_SERVERS: servers is "many", not a valid whole number' env PSD_SERVERS=many "$bin/psdctl" run
# -- command lines: verbs
refused 64 'there is no verb statsu|did you mean psdctl status?' psdctl statsu
refused 64 'there is no verb frobnicate|psdctl help lists them all' psdctl frobnicate
refused 64 'job.yaml is not a verb|did you mean psdctl run job.yaml?' psdctl job.yaml
refused 64 '--servers=2 comes before the verb' psdctl --servers=2 run job.yaml
refused 64 'there is no verb checkpoint burn|one of list, verify, save, prune' psdctl checkpoint burn
refused 64 'there is no verb config shwo|did you mean psdctl config show?' psdctl config shwo
refused 64 'write config check JOB, config show JOB or config schema' psdctl config
refused 64 'there is no verb nonsense' psdctl help nonsense
refused 64 'unknown option --jsn|did you mean --json?' psdctl status --jsn
refused 64 'unknown option --tok|did you mean --token-file?' psdctl status --tok x
refused 64 '--json takes no value' psdctl status --json=yes
refused 64 '--token-file needs a value: FILE' psdctl status --token-file
refused 64 'one word too many: b|[URL]' psdctl status a b
refused 64 '--servers is an option of psd, not of psdctl status|leave it out' psdctl status --servers=2
refused 64 '--for takes ready, finished, or step=N' psdctl wait --for=done
refused 64 '--timeout: timeout is "10s", not a valid number' psdctl wait --timeout=10s
refused 64 'optimizer.lr=VALUE' psdctl set lr=0.1x
refused 64 'WORKER' psdctl drain
refused 64 '--keep=N, N at least 2' psdctl checkpoint prune .
refused 64 '--keep: keep is "two", not a valid whole number' psdctl checkpoint prune . --keep=two
refused 64 '--weights: weights is "best"; it takes auto or fast or slow' psdctl export --weights=best .
refused 64 'CLOCK is a whole number' psdctl export . new
refused 66 'there is no checkpoint below' psdctl checkpoint list none
refused 64 'there are completions for bash and zsh, not for fish' psdctl completion fish
refused 64 "'radma'|radam" psdctl optimizers radma
refused 66 'none.st: No such file' psdctl inspect none.st
refused 66 'none.txt: No such file' psdctl replay none.txt
refused 64 'rules, such as' psdctl compare job.yaml --optimizers
refused 64 '--lr-sweep: compare.lr_sweep is 1e9' psdctl compare job.yaml --optimizers sgd --lr-sweep=1e9
refused 64 '--lr-sweep: compare.lr_sweep is 1e9' psdctl tune job.yaml --optimizers sgd --lr-sweep=1e9
refused 64 '--seeds: compare.seeds is 0' psdctl compare job.yaml --optimizers sgd --seeds=0
refused 78 'environment PSD_COMPARE__LR_SWEEP: ' env PSD_COMPARE__LR_SWEEP=x "$bin/psdctl" tune job.yaml --optimizers sgd
printf '1 1:1\n0 2147483647:1\n1023 1:1\n' >wide.svm
refused 71 '--data-train: line 2 of the training set has the largest index, and a model of 2147483647 features and 1024 outputs takes |number features without gaps' \
    psdctl config check --data-train=libsvm:wide.svm --model-kind=softmax --data-batch=2
mkfifo pipe.csv
refused 78 '--data-train: data.train names csv:pipe.csv, which can be read only once, but each of 2 workers reads it; write it to a file' \
    psdctl config check --data-train=csv:pipe.csv --workers-min=2
refused 78 '--data-train: data.train names csv:pipe.csv, which can be read only once, but each run reads it; write it to a file' \
    psdctl compare --data-train=csv:pipe.csv --optimizers sgd --stop-steps=1 --run-dir=piped
refused 78 '--data-train: data.train names csv:pipe.csv, which can be read only once, but verify reads it twice; write it to a file' \
    psdctl verify --data-train=csv:pipe.csv --stop-steps=1
refused 78 'nothing ends the job: set stop.epochs or stop.steps' psdctl verify --data-train=glyphs:100
refused 66 "cannot read job file .: Is a directory; name the job's YAML file" psdctl verify .
refused 78 '--stop-target: stop.target is 1.5, but accuracy is at most 1' psdctl config check --data-train=glyphs:100 --stop-target=1.5
refused 78 '--stop-patience: stop.patience is set, but eval.every is 0' psdctl config check --data-train=glyphs:100 --stop-patience=2 --eval-every=0
refused 66 '--init: /tmp: is a directory; name the file in it' psdctl config check --data-train=glyphs:100 --init=/tmp
ln -s loop.csv loop.csv
refused 66 '--data-train: loop.csv: Too many levels of symbolic links' psdctl config check --data-train=csv:loop.csv
refused 66 'loop.csv: Too many levels of symbolic links' psdctl config check --data-train=glyphs:100 --init=loop.csv
refused 66 'File name too long' psdctl config check --data-train=csv:"$(printf '%0300d' 0)"
refused 78 'role|boss' psdctl keygen me --role=boss
refused 69 '127.0.0.1:1' psdctl status 127.0.0.1:1
refused 64 'http' psdctl status ftp://x

# Long before it gives up, a replay says what it waits for.
"$bin/psdctl" replay --server tcp://127.0.0.1:1 --case=sgd-plain "$source/tests/golden/sgd.txt" >out 2>err &
replay=$!
for ((i = 0; i < 400; i++)); do
    ! grep -q '^psdctl replay: waiting: no process listens at 127.0.0.1:1: connection refused$' err || break
    kill -0 "$replay" 2>kill.err || break
    sleep 0.1
done
kill "$replay" || miss "a replay without a server ended before it said what it waits for: $(cat err)"
wait "$replay" || true
grep -q '^psdctl replay: waiting: no process listens' err || miss "a replay does not say what it waits for: $(cat err)"

echo "broken: $n refused"
[ "$n" -ge 120 ] || miss "only $n cases"
[ "$failed" -eq 0 ]
