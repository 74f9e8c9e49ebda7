// A tree of folders in which a name that is repaired, cut at a colon, taken for an option or resolved from the wrong
// folder leads to another file than the name itself. Every file has bytes of its own.

import Foundation
import TestKit

/// The bytes of a name or of a path.
typealias Bytes = [UInt8]
/// The components of a path below the scratch folder, none of them "." or "..".
typealias Place = [Bytes]

extension Bytes {
    var cString: [CChar] { map { CChar(bitPattern: $0) } + [0] }
    /// As `\xHH` where it is no printable ASCII, so that a log can be read and the name be made again.
    var shown: String {
        map { $0 > 0x1f && $0 < 0x7f && $0 != 0x5c ? String(UnicodeScalar($0)) : String(format: "\\x%02x", $0) }
            .joined()
    }
    /// Whether QEMU takes the name for a protocol and what belongs to it.
    var hasProtocol: Bool { first { $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: "/") } == UInt8(ascii: ":") }
}

func requireCall(_ result: Int32) throws {
    if result < 0 { throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO) }
}

func contents(of path: Bytes) throws -> Data {
    let descriptor = open(path.cString, O_RDONLY | O_CLOEXEC)
    try requireCall(descriptor)
    return try FileHandle(fileDescriptor: descriptor, closeOnDealloc: true).readToEnd() ?? Data()
}

struct RandomTree {
    let scratch: String
    var noise: SeededRandom
    private(set) var folders: [Place] = []
    private(set) var files: [Place] = []
    /// Symbolic and hard links, and the file that each leads to.
    private(set) var aliases: [(place: Place, file: Place)] = []
    private(set) var folderLinks: [(place: Place, folder: Place)] = []
    /// Links that lead to no file: to a free name, or to themselves.
    private(set) var dangling: [Place] = []
    private var used: Set<Place> = []

    /// Files of one group lie in the same folder: what one of them becomes by some mistake is the name of the other.
    private static let groups: [Place] =
        [
            ["base"], ["disk.qcow2"], ["disk.raw"], ["two words", "two", "words"], [" lead", "lead"],
            ["trail ", "trail"], ["a:b", "a", "b"], ["file:x", "x"], ["nbd:x", "x"], ["json:{}"],
            [#"json:{"file.filename":"base"}"#, "base"], ["x#y", "x"], ["%41", "A"], ["100%"], ["it's", "its"],
            [#""q""#, "q"], [#"back\slash"#, "backslash"], ["new\nline", "new"], ["-x", "x"], ["--help"], ["-"],
            ["$HOME"], ["x,y", "x,,y", "x"], ["a=b"], ["..."], ["*"], ["tab\t", "tab"],
        ].map { $0.map { Array($0.utf8) } } + [
            [Array("bad".utf8) + [0xff], Array("bad\u{fffd}".utf8)], [[0xc3, 0xa9], [0x65, 0xcc, 0x81]],
            [[0xc3], [0xef, 0xbf, 0xbd]], [[0xed, 0xa0, 0x80]], [[0xf4, 0x8f, 0xb9, 0x81], [0x41]],
        ]

    init(scratch: String, seed: UInt64) throws {
        self.scratch = scratch
        noise = SeededRandom(seed)
        try addFolder([[UInt8(ascii: "t")]])
        for _ in 0..<4 { try addFolder(freePlace(in: pick(folders.filter { $0.count < 4 }))) }
        for folder in folders {
            for _ in 0..<3 {
                for name in pick(Self.groups) where used.insert(folder + [name]).inserted {
                    try write(try randomContent(), to: folder + [name])
                    files.append(folder + [name])
                }
            }
        }
        for _ in 0..<4 {
            let (link, folder) = (freePlace(in: pick(folders)), pick(folders))
            try addSymlink(link, to: folder)
            folderLinks.append((link, folder))
        }
        for _ in 0..<10 { _ = try addAlias(of: pick(files)) }
        for _ in 0..<2 {
            let link = freePlace(in: pick(folders))
            try addSymlink(link, to: freePlace(in: pick(folders)))
            dangling.append(link)
        }
        let (one, other) = (freePlace(in: pick(folders)), freePlace(in: pick(folders)))
        try addSymlink(one, to: other)
        try addSymlink(other, to: one)
        dangling.append(one)
    }

    // MARK: choices

    mutating func chance(_ count: Int, in total: Int) -> Bool { noise.below(total) < count }
    /// Of a list that is not empty.
    mutating func pick<Element>(_ list: [Element]) -> Element { list[noise.below(list.count)] }

    /// A name that nothing has; it may be one of another folder.
    mutating func freePlace(in folder: Place) -> Place {
        while true {
            var name = pick(pick(Self.groups))
            if chance(1, in: 5) { name += pick(pick(Self.groups)) }
            if chance(1, in: 8) { name = noise.bytes(1 + noise.below(6)).filter { $0 != 0 && $0 != UInt8(ascii: "/") } }
            let isDots = name.allSatisfy { $0 == UInt8(ascii: ".") } && name.count < 3
            if !isDots, used.insert(folder + [name]).inserted { return folder + [name] }
        }
    }

    /// One of the names of the file.
    mutating func anyName(of file: Place) -> Place {
        let others = aliases.filter { $0.file == file }
        return !others.isEmpty && chance(1, in: 3) ? pick(others).place : file
    }

    // MARK: paths

    func path(_ place: Place) -> Bytes { Array("\(scratch)/".utf8) + place.joined(separator: [UInt8(ascii: "/")]) }

    /// One of the ways to say `place`: from the folder `base`, or from the root.
    mutating func spelled(_ place: Place, from base: Place? = nil) -> Bytes {
        var place = place
        let links = folderLinks.filter { $0.folder.elementsEqual(place.dropLast()) }
        if let last = place.last, !links.isEmpty, chance(1, in: 3) { place = pick(links).place + [last] }
        guard let base else { return path([]) + decorated(place) }
        let common = zip(base, place.dropLast()).prefix { $0 == $1 }.count
        let text = decorated(Array(repeating: Array("..".utf8), count: base.count - common) + place[common...])
        return text.hasProtocol && chance(3, in: 4) ? Array("./".utf8) + text : text
    }

    /// A way that leads there in truth.
    mutating func way(to place: Place, from base: Place?, standingIn folder: Place) -> Bytes {
        while true {
            let text = spelled(place, from: base)
            let full = text.first == UInt8(ascii: "/") ? text : path(folder + [text])
            if fileNumber(full) == fileNumber(path(place)) { return text }
        }
    }

    /// With components that change nothing, as long as they stand behind folders and not behind links.
    private mutating func decorated(_ place: Place) -> Bytes {
        var parts: Place = []
        for (index, part) in place.enumerated() {
            switch noise.below(12) {
            case 0: parts.append(Array(".".utf8))
            case 1 where index > 0: parts.append([])
            case 2 where index < place.count - 1 && part != Array("..".utf8): parts += [part, Array("..".utf8)]
            default: break
            }
            parts.append(part)
        }
        return Array(parts.joined(separator: [UInt8(ascii: "/")]))
    }

    // MARK: changes

    private mutating func addFolder(_ place: Place) throws {
        try requireCall(mkdir(path(place).cString, 0o755))
        folders.append(place)
    }

    private mutating func addSymlink(_ link: Place, to target: Place) throws {
        let folder = Array(link.dropLast())
        let text = way(to: target, from: chance(1, in: 2) ? folder : nil, standingIn: folder)
        try requireCall(symlink(text.cString, path(link).cString))
    }

    /// Another name for a file: a hard link, a symbolic one, or one that leads to it by another link.
    mutating func addAlias(of file: Place, in folder: Place? = nil, hard: Bool? = nil) throws -> Place {
        let link = freePlace(in: folder ?? pick(folders))
        if hard ?? chance(1, in: 4) {
            try requireCall(Foundation.link(path(file).cString, path(link).cString))
        } else {
            try addSymlink(link, to: anyName(of: file))
        }
        aliases.append((link, file))
        return link
    }

    /// Has a symbolic link lead to another file.
    mutating func turn(_ link: Place, to file: Place) throws {
        try requireCall(unlink(path(link).cString))
        try addSymlink(link, to: file)
    }

    /// The file keeps its inode, if it is there.
    func write(_ content: Data, to place: Place) throws {
        let descriptor = open(path(place).cString, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        try requireCall(descriptor)
        try FileHandle(fileDescriptor: descriptor, closeOnDealloc: true).write(contentsOf: content)
    }

    private mutating func randomContent() throws -> Data {
        chance(1, in: 4) ? ImagePattern(&noise).raw : try ImagePattern(&noise).whole()
    }
}

/// All that lies in a folder.
struct TreeState {
    struct Entry: Equatable {
        let mode: UInt32
        let inode: UInt64
        let modified: Int
        /// Of a symbolic link: where it leads.
        let content: Data
    }
    private(set) var entries: [Bytes: Entry] = [:]

    init(_ folder: Bytes) throws { try add(folder) }

    private mutating func add(_ path: Bytes) throws {
        var status = stat()
        try requireCall(lstat(path.cString, &status))
        var content = Data()
        switch status.st_mode & S_IFMT {
        case S_IFREG: content = try contents(of: path)
        case S_IFLNK: content = Data(try linkText(path))
        default: for name in try names(in: path) { try add(path + [UInt8(ascii: "/")] + name) }
        }
        entries[path] = Entry(
            mode: UInt32(status.st_mode), inode: UInt64(status.st_ino),
            modified: Int(status.st_mtim.tv_sec) * 1_000_000_000 + Int(status.st_mtim.tv_nsec), content: content)
    }

    private func names(in folder: Bytes) throws -> [Bytes] {
        guard let stream = opendir(folder.cString) else { throw POSIXError(.EIO) }
        defer { closedir(stream) }
        var names: [Bytes] = []
        while let entry = readdir(stream) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { Array($0.prefix { $0 != 0 }) }
            if name != Array(".".utf8), name != Array("..".utf8) { names.append(name) }
        }
        return names
    }

    /// The paths at which something came, went or changed. The times of folders and what stands in
    /// files count when asked for.
    func changes(since old: TreeState, folders: Bool = true, content: Bool = true) -> [String] {
        Set(entries.keys).union(old.entries.keys).filter { path in
            guard let now = entries[path], let then = old.entries[path] else { return true }
            let isSkipped =
                switch mode_t(now.mode) & S_IFMT {
                case S_IFDIR: !folders
                case S_IFREG: !content
                default: false
                }
            return isSkipped ? now.mode != then.mode || now.inode != then.inode : now != then
        }.map(\.shown).sorted()
    }

    func paths(of inode: UInt64?) -> [Bytes] { entries.filter { $0.value.inode == inode }.map(\.key) }
    func entry(of inode: UInt64) -> Entry? { entries.values.first { $0.inode == inode } }
}

/// The inode that a path leads to.
func fileNumber(_ path: Bytes) -> UInt64? {
    var status = stat()
    return stat(path.cString, &status) == 0 ? UInt64(status.st_ino) : nil
}

func linkText(_ path: Bytes) throws -> Bytes {
    var text = [CChar](repeating: 0, count: 4096)
    let length = readlink(path.cString, &text, text.count)
    try requireCall(Int32(length))
    return text.prefix(length).map { UInt8(bitPattern: $0) }
}
