// Why a ring cannot be made is said with the errno and with what to do about it: a limit on locked memory is not the switch
// that forbids io_uring.
import DiskTypes
import Glibc
import LinuxIO
import SystemPackage
import Testing

@Suite("A ring that cannot be made") struct RingMakeTests {
    @Test(arguments: [
        (Errno.noMemory, "Cannot allocate memory", "ulimit -l"),
        (.notPermitted, "Operation not permitted", "io_uring_disabled"),
        (.permissionDenied, "Permission denied", "seccomp"),
        (.noFunction, "Function not implemented", "CONFIG_IO_URING"),
        (.tooManyOpenFiles, "Too many open files", "ulimit -n"),
    ])
    func saysWhyAndWhatToDo(error: Errno, what: String, advice: String) {
        let failure = Ring.failure(error)
        #expect(failure.what.contains(what) && failure.advice?.contains(advice) == true, "\(failure)")
        #expect(failure.number == error.rawValue)
        #expect(error == .notPermitted || error == .permissionDenied || failure.advice?.contains("disabled") == false)
    }
}
