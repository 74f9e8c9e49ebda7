// Which parts of a process's memory are the program's own, and what the process may do: read from texts of /proc.
import Glibc
import Testing

@testable import LinuxIO

@Suite struct ResidentMemoryTests {
    @Test func filesOfDataAreNotHeld() {
        let maps = """
            55e0c0000000-55e0c0001000 r-xp 00000000 fe:00 131 /usr/bin/qblk
            55e0c0001000-55e0c0003000 rw-p 00001000 fe:00 131 /usr/bin/qblk
            7f0000000000-7f0000100000 rw-p 00000000 00:00 0
            7f0000200000-7f0000300000 ---p 00000000 00:00 0
            7f0000300000-7f0040000000 rw-s 00000000 fe:00 77 /images/disk of mine.raw
            7f0050000000-7f0050010000 rw-s 00000000 00:01 9 /memfd:qblk-map (deleted)
            7f0060000000-7f0060001000 rw-s 00000000 00:0e 9 anon_inode:[io_uring]
            7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0 [stack]
            7ffe00100000-7ffe00104000 r--p 00000000 00:00 0 [vvar]
            ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
            """
        let held = ResidentMemory.regions(maps)
        #expect(held.map(\.count) == [0x1000, 0x2000, 0x100000, 0x10000, 0x21000])
        #expect(held.map(\.isWritable) == [false, true, true, true, true])
    }

    @Test func thisProcessHasRegions() {
        let maps = Filesystem.readIfThere("/proc/self/maps") ?? ""
        #expect(ResidentMemory.regions(maps).count > 5)
    }
}

@Suite struct PrivilegesTests {
    @Test(.enabled(if: geteuid() == 0, "needs root")) func capabilitiesAreTheKernels() throws {
        let status = try Filesystem.read("/proc/self/status")
        let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("CapEff:") })
        let set = try #require(UInt64(line.split(separator: "\t")[1], radix: 16))
        for capability in [Privileges.Capability.ipcLock, .sysAdmin, .sysResource] {
            #expect(Privileges.has(capability) == (set & 1 << capability.rawValue != 0), "\(capability.name)")
        }
    }
}
