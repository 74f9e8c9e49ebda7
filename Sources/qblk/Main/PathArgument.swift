// Paths on the command line, byte for byte. ArgumentParser takes text only, so a word is text that stands for its bytes
// (`ArgumentText`) until an option that is a path makes them bytes again.

public import ArgumentParser
import DiskTypes
import Glibc
import LinuxIO
public import SystemPackage

extension CommandLine {
    /// The words of the command line, the program's name first, as text that stands for their bytes.
    static var words: [String] {
        (0..<Int(argc)).compactMap { index in
            unsafe unsafeArgv[index].map { word in
                unsafe ArgumentText.encode(Array(UnsafeRawBufferPointer(start: word, count: strlen(word))))
            }
        }
    }
}

extension FilePath: @retroactive ExpressibleByArgument {
    /// The path whose bytes the user typed.
    public init?(argument: String) { self.init(FileName(argument: argument)) }

    /// The path as help shows it, with unprintable bytes escaped.
    public var defaultValueDescription: String { printable(self) }
}
