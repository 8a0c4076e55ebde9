# Sourced by the scripts that run several steps: each step prints its name and, at its end, the time it took.
# shellcheck shell=bash

step_name='' step_start=0

# step NAME: ends the step before, and begins this one.
step() {
    end_step
    step_name=$*
    step_start=$SECONDS
    printf '\n== %s\n' "$step_name"
}

end_step() {
    [ -z "$step_name" ] || printf -- '-- %s: %s\n' "$step_name" "$(since "$step_start")"
    step_name=''
}

# since SECONDS: the time since then, such as `75 s (1.2 min)`.
since() {
    local seconds=$((SECONDS - $1))
    printf '%d s (%d.%d min)' "$seconds" $((seconds / 60)) $((seconds % 60 / 6))
}

# Prints which step failed, or the time of all steps.
report_steps() {
    local status=$?
    [ "$status" = 0 ] || printf '\nFAILED: %s, after %s\n' "${step_name:-before the first step}" "$(since "$step_start")"
    [ "$status" != 0 ] || end_step
    printf -- '-- %s: %s in all\n' "$0" "$(since 0)"
    return "$status"
}
trap report_steps EXIT
