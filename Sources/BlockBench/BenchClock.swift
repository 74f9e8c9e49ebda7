// The clocks of the benchmark: the time, which the loop asks for once a batch, and the CPU time of threads and
// processes.
import Glibc
import LinuxIO

enum BenchClock {
    /// Nanoseconds of a clock that only goes forward.
    @inline(__always) static func now() -> UInt64 { read(CLOCK_MONOTONIC) }
    /// Nanoseconds of CPU time that this thread has used.
    static func threadCPU() -> UInt64 { read(CLOCK_THREAD_CPUTIME_ID) }

    @inline(__always) private static func read(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(clock, &time)
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }

    /// Nanoseconds of CPU time that all threads of a process have used, those of its io_uring included; nil when /proc
    /// does not say. Threads that have ended are not counted.
    static func processCPU(_ pid: Int32) -> UInt64? {
        let threads = Filesystem.listIfThere("/proc/\(pid)/task")
        var sum: UInt64 = 0
        var counted = 0
        for thread in threads {
            guard let text = Filesystem.readIfThere("/proc/\(pid)/task/\(thread)/schedstat"),
                let first = text.split(separator: " ").first, let time = UInt64(first)
            else { continue }
            sum += time
            counted += 1
        }
        return counted > 0 ? sum : nil
    }
}
