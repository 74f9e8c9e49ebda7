// The registry is what remains when everything else crashed; what it says must be so, and names from strangers must
// not lead out of it.
import DiskTypes
import Glibc
import LinuxIO
import MapRegistry
import Testing
import SystemPackage

/// A registry in a folder of its own, removed afterwards.
private func withRegistry(_ body: (MapRegistry) throws -> Void) throws {
    var path = Array("/tmp/qblk-registry-XXXXXX".utf8CString)
    try #require(mkdtemp(&path) != nil)
    let folder = String(decoding: path.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    defer {
        for name in Filesystem.listIfThere(FilePath(folder)) {
            for file in Filesystem.listIfThere("\(folder)/\(name)") { unlink("\(folder)/\(name)/\(file)") }
            rmdir("\(folder)/\(name)")
            unlink("\(folder)/\(name)")
        }
        rmdir(folder)
    }
    try body(MapRegistry(folder: FilePath(folder)))
}

private func record(_ name: String, image: FilePath = "/images/a.qcow2", device: String = "/dev/loop77777") -> MapRecord
{
    var made = MapRecord(
        name: name, image: image, format: "qcow2", size: 1 << 30, how: .loop, device: device, readOnly: true,
        created: 1
    )
    made.loops = [77777]
    made.server = ProcessIdentity.current
    return made
}

@Suite struct MapNameTests {
    @Test(arguments: [
        ("/a/b/disk.qcow2", "disk.qcow2"), ("disk", "disk"), ("/x/my disk (1).raw", "my_disk__1_.raw"),
        ("/x/.hidden", "_hidden"), ("/x/-f", "_f"), ("/", "disk"), ("/x/größe", "gr____e"),
    ])
    func suggestion(path: String, name: String) throws {
        #expect(MapName.suggested(forImage: FilePath(path)) == name)
        try MapName.check(name)
    }

    @Test(arguments: [
        "", ".", "..", "a/b", "../x", ".x", "-x", "a b", "a\nb", "a\0b", String(repeating: "a", count: 101),
    ])
    func refused(name: String) {
        #expect(throws: ImageError.self) { try MapName.check(name) }
    }
}

@Suite struct RegistryTests {
    @Test func whatIsWrittenIsRead() throws {
        try withRegistry { registry in
            #expect(try registry.all().isEmpty)
            let reservation = try registry.create("one")
            #expect(try registry.all().isEmpty, "a map that is being made is none yet")
            var made = record("one")
            made.snapshot = "before \"it\""
            made.dmNames = ["x", "y"]
            try reservation.write(made)
            #expect(try registry.all() == [made])
            try reservation.remove()
            #expect(try registry.all().isEmpty)
            #expect(!Filesystem.exists(registry.folder(of: "one")))
        }
    }

    @Test func namesAreTakenOnce() throws {
        try withRegistry { registry in
            let reservation = try registry.create("one")
            // Being made by another process.
            #expect(throws: ImageError.self) { _ = try registry.create("one") }
            try reservation.write(record("one"))
            let error = #expect(throws: ImageError.self) { _ = try registry.create("one") }
            #expect(error?.description.contains("--name") == true)
            try reservation.remove()
            try registry.create("one").remove()
        }
    }

    @Test func mapsAreFoundByWhatPeopleSay() throws {
        try withRegistry { registry in
            let one = try registry.create("one")
            let two = try registry.create("two")
            try one.write(record("one", device: "/dev/loop77777"))
            try two.write(record("two", image: "/images/b.qcow2", device: "/dev/loop77778"))
            #expect(try registry.find("one")?.name == "one")
            #expect(try registry.find("/dev/loop77778")?.name == "two")
            #expect(try registry.find("/images/b.qcow2")?.name == "two")
            #expect(try registry.find("three") == nil)
            try two.write(record("two"))
            let error = #expect(throws: ImageError.self) { _ = try registry.find("/images/a.qcow2") }
            #expect(error?.advice == "say which one: one, two")
        }
    }

    @Test func anImageIsFoundByWhichFileItIs() throws {
        try withRegistry { registry in
            let image = registry.folder.appending(".image")
            for name in ["", "-2"] { try Filesystem.writeAtomically(image.extended(name), "x") }
            defer { for name in ["", "-2", "-3"] { image.extended(name).unlink() } }
            var made = record("one", image: image)
            made.imageIdentity = Filesystem.identity(of: image)
            let reservation = try registry.create("one")
            try reservation.write(made)
            #expect(try registry.find(image)?.name == "one" && !made.isImageRenamed)
            #expect(image.rename(to: image.extended("-3")) == 0)
            #expect(made.isImageRenamed)
            #expect(try registry.find(image.extended("-3"))?.name == "one")
            #expect(try registry.find(image)?.name == "one", "no other file has its name")
            #expect(image.extended("-2").rename(to: image) == 0)
            #expect(try registry.find(image) == nil && made.isImageRenamed, "another file has its name")
        }
    }

    @Test func anotherFileGetsAnotherName() throws {
        try withRegistry { registry in
            let (first, second) = (FileIdentity(device: 1, inode: 1), FileIdentity(device: 1, inode: 2))
            let long = String(repeating: "a", count: 100)
            for name in ["disk", long] {
                var made = record(name)
                made.imageIdentity = first
                let one = try registry.create(suggested: name, for: first)
                #expect(one.name == name)
                // Not made yet: nothing is known of its file.
                let waiting = try registry.create(suggested: name, for: first)
                #expect(waiting.name == (name == long ? long.dropLast(2) + "-2" : "disk-2"))
                try waiting.remove()
                try one.write(made)
                let two = try registry.create(suggested: name, for: second)
                #expect(two.name == (name == long ? long.dropLast(2) + "-2" : "disk-2"))
                try two.remove()
                #expect(throws: ImageError.self) { _ = try registry.create(suggested: name, for: first) }
            }
        }
    }

    @Test func theDeadAreKnown() throws {
        try withRegistry { registry in
            let reservation = try registry.create("gone")
            try reservation.write(record("gone"))
            #expect(try registry.staleRecords().map(\.name) == ["gone"])
            #expect(record("gone").health == .dead)
            try registry.sweep()
            #expect(try registry.all().count == 1, "a record is not swept: what it names may still have to go")
        }
    }

    @Test func foldersWithoutRecordAreSwept() throws {
        try withRegistry { registry in
            do { _ = try registry.create("half") }
            #expect(Filesystem.exists(registry.folder(of: "half")))
            let busy = try registry.create("busy")
            try registry.sweep()
            #expect(!Filesystem.exists(registry.folder(of: "half")))
            #expect(Filesystem.exists(busy.folder), "a process is at work on it")
        }
    }

    @Test func brokenRecordsSayWhatToDo() throws {
        try withRegistry { registry in
            let reservation = try registry.create("bad")
            try Filesystem.writeAtomically(reservation.folder.appending("state.json"), "{\"name\": 7}")
            let error = #expect(throws: ImageError.self) { _ = try registry.all() }
            #expect(error?.description.contains("by hand") == true)
        }
    }

    @Test func theFolderCanBeChosen() {
        setenv("QBLK_RUN_DIR", "/tmp/qblk-elsewhere", 1)
        #expect(MapRegistry().folder == "/tmp/qblk-elsewhere")
        unsetenv("QBLK_RUN_DIR")
        #expect(MapRegistry().folder == "/run/qblk")
    }
}
