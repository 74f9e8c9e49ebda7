// What the kernel does with our loop devices, on a kernel that has them.
import DiskTypes
import Glibc
import LinuxIO
import Testing
import SystemPackage

let hasLoop = hasRoot && exists("/dev/loop-control")

/// True as soon as `condition` is, within twenty seconds: detaching is not always done when the call returns.
func eventually(_ condition: () -> Bool) -> Bool {
    for _ in 0..<2000 {
        if condition() { return true }
        usleep(10_000)
    }
    return false
}

@Suite(.enabled(if: hasLoop, "needs root and loop devices")) struct LoopDeviceTests {
    @Test func theDeviceShowsTheFile() throws {
        let scratch = try Scratch(in: diskDirectory)
        let file = try HostFile.open(path: FilePath(scratch.file("a", pattern(1 << 20))), writable: true)
        let loop = try LoopDevice.attach(
            fd: file.fd, readOnly: true, offset: 4096, sizeLimit: 65536, name: "a name of ours")
        #expect(loop.path == "/dev/loop\(loop.number)")
        let device = try HostFile.open(path: FilePath(loop.path))
        #expect(device.isBlockDevice && device.length == 65536)
        #expect(try device.read(at: HostOffset(512), count: 1024) == Array(pattern(1 << 20)[4608..<5632]))
        let status = try #require(try loop.status())
        #expect(status.backingFile == file.path && status.identity == file.identity)
        #expect(status.offset == 4096 && status.sizeLimit == 65536)
        #expect(status.isReadOnly && !status.clearsItself && !status.scansPartitions)
        #expect(status.usesDirectIO == loop.usesDirectIO)
        #expect(try LoopDevice.all().contains { $0.number == loop.number })
        try loop.detach()
    }

    @Test func directIOIsReportedAsTheKernelGrantedIt() throws {
        let scratch = try Scratch(in: diskDirectory)
        let file = try HostFile.open(path: FilePath(scratch.file("a", pattern(1 << 20))))
        // An offset that no disk can do: the kernel takes it and silently reads through the cache.
        let odd = try LoopDevice.attach(fd: file.fd, readOnly: true, directIO: true, offset: 100, name: "odd")
        #expect(!odd.usesDirectIO)
        try odd.detach()
        let even = try LoopDevice.attach(fd: file.fd, readOnly: true, directIO: file.directFD >= 0, name: "even")
        #expect(even.usesDirectIO == (file.directFD >= 0))
        #expect(try LoopDevice.open(even.number).usesDirectIO == even.usesDirectIO)
        try even.detach()
    }

    @Test func aReadOnlyDescriptorCannotBecomeAWritableDevice() throws {
        let scratch = try Scratch()
        let file = try HostFile.open(path: FilePath(scratch.file("a", pattern(4096))))
        let text = message { try LoopDevice.attach(fd: file.fd, readOnly: false, name: "x") }
        #expect(text?.hasSuffix("the file is open for reading only") == true)
        #expect(
            eventually {
                (try? LoopDevice.all().allSatisfy { (try? $0.status())??.identity != file.identity }) == true
            })
    }

    @Test func aKeptDeviceStaysWhenItsMakerLetsGo() throws {
        let scratch = try Scratch()
        let file = try HostFile.open(path: FilePath(scratch.file("a", pattern(1 << 20))), writable: true)
        let loop = try LoopDevice.attach(fd: file.fd, readOnly: false, autoClear: true, name: "x")
        try loop.keep()
        #expect(try #require(try LoopDevice.open(loop.number).status()).clearsItself == false)
        try LoopDevice.open(loop.number).detach()
    }

    @Test func anAutoClearingDeviceLivesAsLongAsItIsHeld() throws {
        let scratch = try Scratch()
        let file = try HostFile.open(path: FilePath(scratch.file("a", pattern(1 << 20))), writable: true)
        let loop = try LoopDevice.attach(fd: file.fd, readOnly: false, autoClear: true, name: "x")
        #expect(try loop.status()?.clearsItself == true)
        let user = try HostFile.open(path: FilePath(loop.path))
        loop.release()
        #expect(try LoopDevice.open(loop.number).status()?.identity == file.identity)
        withExtendedLifetime(user) {}
        _ = consume user
        #expect(eventually { !exists("/sys/block/loop\(loop.number)/loop/backing_file") })
    }

    @Test func theDeviceGrowsWithTheFile() throws {
        let scratch = try Scratch()
        let file = try HostFile.open(path: FilePath(scratch.file("a", pattern(1 << 20))), writable: true)
        let loop = try LoopDevice.attach(fd: file.fd, readOnly: false, name: "x")
        let device = try HostFile.open(path: FilePath(loop.path))
        try file.truncate(to: 4 << 20)
        #expect(try device.currentLength() == 1 << 20)
        try loop.setCapacity()
        #expect(try device.currentLength() == 4 << 20)
        try loop.detach()
    }

    @Test func anExclusiveUserIsNoticed() throws {
        let scratch = try Scratch()
        let file = try HostFile.open(path: FilePath(scratch.file("a", pattern(1 << 20))), writable: true)
        let loop = try LoopDevice.attach(fd: file.fd, readOnly: false, name: "x")
        #expect(!loop.isInUse)
        let exclusive = OwnedFD(taking: open(loop.path, O_RDONLY | O_EXCL | O_CLOEXEC))
        #expect(exclusive.raw >= 0)
        #expect(loop.users() == ["open elsewhere"])
        try exclusive.close()
        #expect(!loop.isInUse)
        try loop.detach()
    }

    @Test func aMountedDeviceIsNamedWithItsMountPoint() throws {
        guard exists("/sbin/mkfs.ext4") else { return }
        let scratch = try Scratch()
        let file = try HostFile.open(path: FilePath(scratch.file("a")), writable: true)
        try file.truncate(to: 16 << 20)
        let made = try ChildProcess.spawn(
            "/sbin/mkfs.ext4", ["mkfs.ext4", "-q", file.path.name], options: .nullStandardIO)
        #expect(try made.wait().isSuccess)
        let loop = try LoopDevice.attach(fd: file.fd, readOnly: false, name: "x")
        let point = scratch.path + "/a mount point"
        #expect(mkdir(point, 0o700) == 0)
        try Mount.mount(source: FilePath(loop.path), target: FilePath(point), type: "ext4", flags: Mount.readOnly)
        #expect(loop.users() == ["mounted on \(point)"])
        let entry = try MountTable.read().first { $0.mountPoint == FilePath(point) }
        #expect(entry?.source == FilePath(loop.path) && entry?.type == "ext4")
        try Mount.unmount(FilePath(point))
        #expect(rmdir(point) == 0)
        #expect(!loop.isInUse)
        try loop.detach()
    }

    @Test func manyAttachesAtOnceAllGetADeviceOfTheirOwn() async throws {
        let scratch = try Scratch()
        let path = try scratch.file("a", pattern(1 << 16))
        // Auto-clearing, so that a test that dies leaves no devices behind.
        let devices = try await withThrowingTaskGroup(of: LoopDevice.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    let file = try HostFile.open(path: FilePath(path))
                    return try LoopDevice.attach(fd: file.fd, readOnly: true, autoClear: true, name: "x")
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        #expect(Set(devices.map(\.number)).count == 8)
        for device in devices { device.release() }
    }

    @Test func detachingTwiceIsNoError() throws {
        let scratch = try Scratch()
        let file = try HostFile.open(path: FilePath(scratch.file("a", pattern(4096))))
        let loop = try LoopDevice.attach(fd: file.fd, readOnly: true, name: "x")
        try loop.detach()
        #expect(eventually { (try? loop.status()) == .some(nil) })
        try loop.detach()
    }
}
