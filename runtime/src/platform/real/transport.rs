//! Frames over TCP: each is a little-endian `u32` length and that many bytes.
//!
//! The hot path, `poll_send` and `poll_recv`, is called by subtask threads and makes system calls directly: many frames per
//! vectored write, many per read, and received frames are slices of the read buffer. Nothing is taken from the caller's
//! queue beyond what the kernel took, but for the rest of one partly written frame.
//!
//! TCP cannot tell a process that ended in order from one that was killed while nothing was under way: both are
//! [`NetError::Closed`]. Protocols above must say goodbye themselves if they need to know.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    net::Shutdown,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};

use super::{
    super::{
        Address, Connection, FrameReceiver, FrameSender, Fut, Listener, MAX_FRAME_BYTES, Mono, NetError, Transport,
        clock::timeout,
    },
    clock::RealClock,
    reactor::Reactor,
};

const HEADER_BYTES: usize = 4;
/// Frames per system call; twice as many slices, far below the kernel's limit of 1,024.
const FRAMES_PER_WRITE: usize = 64;
/// The read buffer starts small, since most connections carry little, and doubles while reads fill it.
const SMALLEST_READ: usize = 8 << 10;
const LARGEST_READ: usize = 256 << 10;

pub(super) struct TcpTransport {
    reactor: Reactor,
    clock: RealClock,
    advertised_host: Option<String>,
}

impl TcpTransport {
    pub(super) fn new(reactor: Reactor, clock: RealClock, advertised_host: Option<String>) -> TcpTransport {
        TcpTransport { reactor, clock, advertised_host }
    }
}

impl Transport for TcpTransport {
    fn listen(&self, at: &Address) -> Fut<'_, Result<Box<dyn Listener>, NetError>> {
        let at = at.clone();
        self.reactor.within(async move {
            let listener = TcpListener::bind(&at.0).await.map_err(|e| net_error(&e))?;
            let local = listener.local_addr().map_err(|e| net_error(&e))?;
            let address = match &self.advertised_host {
                Some(host) => Address(format!("{host}:{}", local.port())),
                None => Address(local.to_string()),
            };
            Ok(Box::new(TcpFrameListener { reactor: self.reactor.clone(), listener, address }) as Box<dyn Listener>)
        })
    }

    fn connect(&self, to: &Address, _label: &str, by: Mono) -> Fut<'_, Result<Connection, NetError>> {
        let to = to.clone();
        self.reactor.within(async move {
            let stream = match timeout(&self.clock, by, TcpStream::connect(&to.0)).await {
                Ok(connected) => connected.map_err(|e| net_error(&e))?,
                Err(_) => return Err(NetError::TimedOut),
            };
            // A connect to a free port of this host's ephemeral range may meet itself.
            if stream.local_addr().ok() == stream.peer_addr().ok() {
                return Err(NetError::Refused);
            }
            connection(stream)
        })
    }
}

struct TcpFrameListener {
    reactor: Reactor,
    listener: TcpListener,
    address: Address,
}

impl Listener for TcpFrameListener {
    fn accept(&mut self) -> Fut<'_, Result<Connection, NetError>> {
        let listener = &self.listener;
        self.reactor.within(async move {
            loop {
                match listener.accept().await {
                    // A peer that is gone already is its own affair.
                    Ok((stream, _)) => {
                        if let Ok(connection) = connection(stream) {
                            return Ok(connection);
                        }
                    }
                    Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {
                    }
                    Err(e) => return Err(net_error(&e)),
                }
            }
        })
    }

    fn address(&self) -> Address {
        self.address.clone()
    }
}

fn connection(stream: TcpStream) -> Result<Connection, NetError> {
    stream.set_nodelay(true).map_err(|e| net_error(&e))?;
    // A peer that vanished without a word is found out within about a minute even on an idle connection.
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(|e| net_error(&e))?;
    let stream = Arc::new(stream);
    Ok(Connection {
        sender: Box::new(TcpFrameSender { stream: stream.clone(), partial: None, failed: None }),
        receiver: Box::new(TcpFrameReceiver {
            stream,
            buffer: BytesMut::new(),
            read_size: SMALLEST_READ,
            failed: None,
        }),
    })
}

fn net_error(e: &io::Error) -> NetError {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => NetError::Refused,
        io::ErrorKind::TimedOut => NetError::TimedOut,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected => NetError::Reset,
        io::ErrorKind::AddrInUse => NetError::AddressInUse,
        _ => NetError::Io(e.to_string()),
    }
}

/// A frame of which the kernel took a part, header included.
struct Partial {
    header: [u8; HEADER_BYTES],
    frame: Bytes,
    written: usize,
}

impl Partial {
    fn left(&self) -> usize {
        HEADER_BYTES + self.frame.len() - self.written
    }
}

struct TcpFrameSender {
    stream: Arc<TcpStream>,
    partial: Option<Partial>,
    failed: Option<NetError>,
}

impl TcpFrameSender {
    /// One vectored write of what fits; the number of bytes the kernel took.
    fn write_once(&self, queue: &VecDeque<Bytes>) -> io::Result<usize> {
        let mut headers = [[0; HEADER_BYTES]; FRAMES_PER_WRITE];
        for (header, frame) in headers.iter_mut().zip(queue) {
            *header = header_of(frame);
        }
        let mut slices = [IoSlice::new(&[]); 2 * FRAMES_PER_WRITE + 2];
        let mut used = 0;
        let mut add = |bytes| {
            slices[used] = IoSlice::new(bytes);
            used += 1;
        };
        if let Some(partial) = &self.partial {
            if partial.written < HEADER_BYTES {
                add(&partial.header[partial.written..]);
            }
            add(&partial.frame[partial.written.saturating_sub(HEADER_BYTES)..]);
        }
        for (header, frame) in headers.iter().zip(queue) {
            if frame.len() > MAX_FRAME_BYTES {
                break;
            }
            add(header);
            if !frame.is_empty() {
                add(frame);
            }
        }
        self.stream.try_write_vectored(&slices[..used])
    }

    /// Accounts for `written` bytes; the number of frames taken from the queue.
    fn advance(&mut self, queue: &mut VecDeque<Bytes>, mut written: usize) -> usize {
        if let Some(partial) = &mut self.partial {
            let step = written.min(partial.left());
            partial.written += step;
            written -= step;
            if partial.left() == 0 {
                self.partial = None;
            }
        }
        let mut taken = 0;
        while written > 0
            && let Some(frame) = queue.pop_front()
        {
            taken += 1;
            let step = written.min(HEADER_BYTES + frame.len());
            written -= step;
            if step < HEADER_BYTES + frame.len() {
                self.partial = Some(Partial { header: header_of(&frame), frame, written: step });
            }
        }
        taken
    }

    fn fail<T>(&mut self, error: NetError) -> Poll<Result<T, NetError>> {
        self.failed = Some(error.clone());
        Poll::Ready(Err(error))
    }
}

fn header_of(frame: &Bytes) -> [u8; HEADER_BYTES] {
    // A longer one is never sent.
    u32::try_from(frame.len()).unwrap_or(u32::MAX).to_le_bytes()
}

impl FrameSender for TcpFrameSender {
    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut VecDeque<Bytes>) -> Poll<Result<usize, NetError>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        let mut taken = 0;
        loop {
            if self.partial.is_none() {
                match queue.front() {
                    None => return Poll::Ready(Ok(taken)),
                    Some(frame) if frame.len() > MAX_FRAME_BYTES => {
                        let length = frame.len();
                        return self.fail(NetError::Malformed(format!(
                            "a frame of {length} bytes was to be sent; the limit is {MAX_FRAME_BYTES}"
                        )));
                    }
                    Some(_) => {}
                }
            }
            if let Err(e) = ready!(self.stream.poll_write_ready(cx)) {
                return self.fail(net_error(&e));
            }
            match self.write_once(queue) {
                Ok(0) => return self.fail(NetError::Reset),
                Ok(written) => taken += self.advance(queue, written),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return self.fail(net_error(&e)),
            }
        }
    }
}

impl Drop for TcpFrameSender {
    fn drop(&mut self) {
        // Says "no more" after all that was handed over. A peer that is gone cannot be told.
        let _ = SockRef::from(&*self.stream).shutdown(Shutdown::Write);
    }
}

struct TcpFrameReceiver {
    stream: Arc<TcpStream>,
    buffer: BytesMut,
    read_size: usize,
    failed: Option<NetError>,
}

impl TcpFrameReceiver {
    /// The next whole frame in the buffer.
    fn next_frame(&mut self) -> Result<Option<Bytes>, NetError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(NetError::Malformed(format!("length {length} is above the limit of {MAX_FRAME_BYTES}")));
        }
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// One read; None at the end of the stream. Memory grows with what has come, not with what a length announces.
    fn read_once(&mut self) -> io::Result<Option<usize>> {
        self.buffer.reserve(self.read_size.max(self.buffer.len()));
        let room = self.buffer.capacity() - self.buffer.len();
        let read = self.stream.try_read_buf(&mut self.buffer)?;
        if read == room {
            self.read_size = (2 * self.read_size).min(LARGEST_READ);
        }
        Ok((read > 0).then_some(read))
    }

    fn fail<T>(&mut self, error: NetError) -> Poll<Result<T, NetError>> {
        self.buffer = BytesMut::new();
        self.failed = Some(error.clone());
        Poll::Ready(Err(error))
    }
}

impl FrameReceiver for TcpFrameReceiver {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut VecDeque<Bytes>,
        max: usize,
    ) -> Poll<Result<usize, NetError>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        loop {
            let mut received = 0;
            while received < max.max(1) {
                match self.next_frame() {
                    Ok(Some(frame)) => {
                        out.push_back(frame);
                        received += 1;
                    }
                    Ok(None) => break,
                    // What came before it is good; the error comes with the next call.
                    Err(_) if received > 0 => break,
                    Err(error) => return self.fail(error),
                }
            }
            if received > 0 {
                return Poll::Ready(Ok(received));
            }
            if let Err(e) = ready!(self.stream.poll_read_ready(cx)) {
                return self.fail(net_error(&e));
            }
            match self.read_once() {
                Ok(Some(_)) => {}
                Ok(None) if self.buffer.is_empty() => return self.fail(NetError::Closed),
                Ok(None) => {
                    let left = self.buffer.len();
                    return self.fail(NetError::Malformed(format!("the stream ended {left} bytes into a frame")));
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return self.fail(net_error(&e)),
            }
        }
    }
}
