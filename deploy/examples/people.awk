# people.awk - draws a random table of people: numbers and words, with gaps, and whether each person bought:
#
#     awk -v rows=4000 -v seed=1 -f deploy/examples/people.awk >people.csv
#
# The same seed gives the same rows with any awk: chance is a Lehmer generator, whose products are exact in a double.
function chance() { state = (state * 48271) % 2147483647; return state / 2147483647 }
function bell(    i, sum) { sum = -6; for (i = 0; i < 12; i++) sum += chance(); return sum }

BEGIN {
    state = 1 + 7919 * seed
    n_jobs = split("baker clerk doctor farmer nurse pilot smith teacher", job, " ")
    n_towns = split("Aden Bonn Cork Delft Evora Fez Graz Hull Ivrea Jena Kiel Lund", town, " ")
    print "age,hours,job,town,income,bought"
    for (row = 0; row < rows; row++) {
        age = int(18 + 60 * chance()); hours = int(10 + 40 * chance())
        j = 1 + int(n_jobs * chance()); t = 1 + int(n_towns * chance())
        income = int(20000 * exp(0.02 * hours + 0.1 * j + 0.4 * bell()))
        score = (age - 45) / 15 + (j % 3 - 1) + (t % 4 == 0 ? 1.2 : -0.3) + log(income / 45000) - ((hours - 30) / 12) ^ 2 / 2
        bought = score + 0.5 * bell() > 0
        printf "%s,%d,%s,%s,%s,%d\n", chance() < 0.05 ? "" : age, hours, job[j], town[t], chance() < 0.1 ? "" : income, bought
    }
}
