// The C module must live beside Glibc and swift-system in one file, and say what Swift cannot.
import CQblk
import Glibc
import LinuxIO
import Synchronization
import SystemPackage
import Testing

private let lines = Mutex<[String]>([])

struct ShimTests {
    @Test func theModulesMeetWithoutConflict() throws {
        let descriptor = FileDescriptor(rawValue: 0)
        var status = stat()
        #expect(fstat(descriptor.rawValue, &status) == 0 || errno == EBADF)
        var set = sigset_t()
        sigemptyset(&set)
        #expect(iovec().iov_len == 0 && timespec().tv_sec == 0 && flock().l_pid == 0)
        #expect(qb_sqe().opcode == 0 && MemoryLayout<qb_sqe>.size == 64)
    }

    @Test func ioctlNumbersAreTheKernels() {
        #expect(QB_BLKGETSIZE64 == 0x8008_1272)
        #expect(QB_FUSE_DEV_IOC_CLONE == 0x8004_e500)
        #expect(QB_FUSE_DEV_IOC_BACKING_OPEN == 0x4010_e501 && QB_FUSE_DEV_IOC_BACKING_CLOSE == 0x4004_e502)
        #expect(QB_FUSE_HAS_RESEND == 1 << 39 && QB_FUSE_PASSTHROUGH == 1 << 37 && QB_FUSE_NOTIFY_RESEND == 7)
    }

    @Test func theDeviceMapperLibraryTalksToUs() {
        qb_dm_log_to { level, text in
            guard let text else { return }
            lines.withLock { $0.append("\(level) \(String(cString: text))") }
        }
        // Without the kernel's part the library complains about that, with it about the name: to us alone.
        if let task = dm_task_create(Int32(DM_DEVICE_CREATE)) {
            #expect(dm_task_set_name(task, String(repeating: "x", count: 500)) == 0)
            dm_task_destroy(task)
        }
        let heard = lines.withLock { $0 }
        #expect(heard.contains { $0.hasPrefix("3 ") && $0.count > 10 })
        qb_dm_log_to(nil)
    }

    @Test func memoryFilesAndDeviceNumbers() throws {
        let memory = OwnedFD(taking: qb_memfd_create("x", 1))
        #expect(memory.raw >= 0)
        #expect(qb_major(0x0701) == 7 && qb_minor(0x0701) == 1)
    }
}
