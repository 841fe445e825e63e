// Preloaded into a process, this makes its processor call itself AMD's: CPUID traps, and its first leaf names that make.
//
// Libraries of numbers choose their sums by the make, so that another one's float32 results can be had in every bit.
// For Linux on x86-64, where the processor lets CPUID trap; a process ends with status 77 where it does not.
#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

namespace {

void let_cpuid_run(bool allowed) {
    constexpr long arch_set_cpuid = 0x1012;
    if (syscall(SYS_arch_prctl, arch_set_cpuid, allowed ? 1L : 0L)) _exit(77);
}

void answer(int fault, siginfo_t*, void* context) {
    greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    const auto* instruction = reinterpret_cast<const unsigned char*>(registers[REG_RIP]);
    if (instruction[0] != 0x0f || instruction[1] != 0xa2) {  // not CPUID: a fault of the program's own
        signal(fault, SIG_DFL);
        return;
    }
    const unsigned leaf = registers[REG_RAX];
    unsigned a, b, c, d;
    let_cpuid_run(true);
    __cpuid_count(leaf, static_cast<unsigned>(registers[REG_RCX]), a, b, c, d);
    let_cpuid_run(false);
    if (leaf == 0) b = signature_AMD_ebx, c = signature_AMD_ecx, d = signature_AMD_edx;
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) void trap() {
    struct sigaction action = {};
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, nullptr);
    let_cpuid_run(false);
}

}  // namespace
